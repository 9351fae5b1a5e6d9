import pytest
from conftest import CONFIGS, flat, load_config

from ohem_d2 import engine, model_zoo
from ohem_d2.utils import InputError

NAME = "PascalVOC-Detection/fast_rcnn_VGG16_ohem.yaml"


def test_configs_are_found_by_name(tmp_path, monkeypatch):
    assert model_zoo.get_config_file(NAME) == str(CONFIGS / NAME)
    monkeypatch.chdir(tmp_path)
    expected = dict(flat(load_config(NAME)))
    assert dict(flat(engine.load_config(NAME))) == expected
    # A file of that name comes first.
    (tmp_path / "PascalVOC-Detection").mkdir()
    (tmp_path / NAME).write_text("SEED: 7")
    assert engine.load_config(NAME).SEED == 7


def test_a_name_that_is_wrong():
    with pytest.raises(InputError, match=f"is 'PascalVOC.*does not exist.* Did you mean {NAME}"):
        engine.load_config(NAME.replace("_ohem", "_ohme"))
    with pytest.raises(InputError, match="has a config 'nowhere.yaml'"):
        model_zoo.get_config_file("nowhere.yaml")
    for folder in ("", "demo", "COCO-Detection"):
        with pytest.raises(InputError, match=f"has a config '{folder}'"):
            model_zoo.get_config_file(folder)


def test_configs_of_detectron2():
    name = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
    assert engine.load_config(name, ["SEED", "7"]).MODEL.RESNETS.DEPTH == 50
