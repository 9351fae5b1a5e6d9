import pytest
from conftest import CONFIGS

from ohem_d2.engine import InputError, load_config

CONFIG = str(CONFIGS / "demo/faster_rcnn_R_18_ohem.yaml")


def test_options_override_the_file():
    cfg = load_config(CONFIG)
    assert cfg.MODEL.ROI_HEADS.NAME == "OHEMROIHeads" and cfg.MODEL.OHEM.NMS_THRESH == 0.7
    cfg = load_config(CONFIG, ["MODEL.OHEM.NMS_THRESH", "0.5"])
    assert cfg.MODEL.ROI_HEADS.NAME == "OHEMROIHeads" and cfg.MODEL.OHEM.NMS_THRESH == 0.5


@pytest.mark.parametrize(
    "content",
    ["", "- a\n", "a: [", "text", "MODEL: 3\n", "_BASE_: none.yaml\n", b"\x80\x02}", None],
)
def test_what_is_no_config(tmp_path, content):
    path = tmp_path / "config.yaml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match="The config .* cannot be read: ."):
        load_config(str(path))


def test_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match="--config-file is '.*none.yaml', which does not exist"):
        load_config(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    "options, message",
    [
        (["MODEL.OHEM.NMS_TRESH", "0.5"], "Non-existent.*MODEL.OHEM.NMS_TRESH"),
        (["MODEL.OHEM.NMS_THRESH", "high"], "high.*MODEL.OHEM.NMS_THRESH"),
        (["MODEL.OHEM.NMS_THRESH"], "list"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        load_config(CONFIG, options)
