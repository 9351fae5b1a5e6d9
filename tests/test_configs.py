import pytest
from conftest import CONFIGS, load_config
from detectron2.data import DatasetCatalog

FILES = sorted(str(x.relative_to(CONFIGS)) for x in CONFIGS.rglob("*.yaml"))


def flat(cfg, prefix=""):
    for key, value in cfg.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_there_are_configs():
    assert len(FILES) >= 2


@pytest.mark.parametrize("file", FILES)
def test_loads_and_its_datasets_are_registered(file):
    cfg = load_config(file)
    assert set(cfg.DATASETS.TRAIN) | set(cfg.DATASETS.TEST) <= set(DatasetCatalog.list())


@pytest.mark.parametrize("file", [x for x in FILES if x.endswith("_ohem.yaml")])
def test_a_twin_differs_in_ohem_alone(file):
    twin, baseline = (
        dict(flat(load_config(file))),
        dict(flat(load_config(file.replace("_ohem", "")))),
    )
    different = {key for key in twin if twin[key] != baseline[key]}
    assert "MODEL.ROI_HEADS.NAME" in different
    assert all(x == "MODEL.ROI_HEADS.NAME" or x.startswith("MODEL.OHEM.") for x in different)
    assert (baseline["MODEL.ROI_HEADS.NAME"], twin["MODEL.ROI_HEADS.NAME"]) == (
        "StandardROIHeads",
        "OHEMROIHeads",
    )
