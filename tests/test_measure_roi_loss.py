"""
`ohem-d2 roi-loss`: the mean loss over all RoIs for every checkpoint of a training.
"""

import json
import os
import sys

import pytest
from conftest import use_clutter
from tiny_training import run_train_net

from ohem_d2.__main__ import main
from ohem_d2.checkpoint import load_model
from ohem_d2.commands import measure_roi_loss
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.engine import load_config
from ohem_d2.evaluation import build_mean_roi_loss_loader, mean_roi_loss

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    generate_clutter(str(root), 0, {"train": 3, "test": 2})
    use_clutter(root)
    options = ["SEED", 3, "SOLVER.MAX_ITER", 4, "SOLVER.STEPS", (), "OUTPUT_DIR", root / "output"]
    run_train_net(options=options)
    return root / "output"


@pytest.fixture
def measure(monkeypatch):
    def measure(*arguments):
        monkeypatch.setattr(sys, "argv", ["ohem-d2", "roi-loss", *map(str, arguments)])
        main()

    return measure


def expected(run, checkpoint):
    cfg = load_config(str(run / "config.yaml"), ["MODEL.WEIGHTS", str(run / checkpoint)])
    loader = build_mean_roi_loss_loader(cfg, cfg.DATASETS.TRAIN[0])
    return mean_roi_loss(load_model(cfg), loader)


def test_every_checkpoint(run, measure, capsys, monkeypatch):
    measure(run)
    losses = json.loads((run / "roi_loss.json").read_text())["losses"]
    # A checkpoint every third iteration, and the last.
    assert losses == {
        "3": expected(run, "model_0000002.pth"),
        "4": expected(run, "model_final.pth"),
    }
    lines = capsys.readouterr().out.splitlines()
    assert [x.split("|")[1].strip() for x in lines[-2:]] == ["3", "4"]

    # What was measured is not measured again, unless the checkpoint is newer.
    loaded = []

    def load(cfg):
        loaded.append(cfg.MODEL.WEIGHTS)
        return load_model(cfg)

    monkeypatch.setattr(measure_roi_loss, "load_model", load)
    measure(run)
    assert loaded == []
    later = (run / "roi_loss.json").stat().st_mtime + 5
    os.utime(run / "model_final.pth", (later, later))
    measure(run)
    assert loaded == [str(run / "model_final.pth")]


@pytest.mark.parametrize(
    "content, message",
    [
        ("[]", "roi_loss.json is not what `ohem-d2 roi-loss` writes"),
        ('{"losses": {"3": "x"}}', "roi_loss.json is not what `ohem-d2 roi-loss` writes"),
        ('{"losses": {}, "dataset": "pets"}', "roi_loss.json is about pets, not clutter_voc_train"),
    ],
)
def test_another_file(run, measure, content, message):
    (run / "roi_loss.json").write_text(content)
    with pytest.raises(SystemExit, match=message):
        measure(run)
    assert (run / "roi_loss.json").read_text() == content
    (run / "roi_loss.json").unlink()


def test_bad_arguments(run, measure, tmp_path):
    with pytest.raises(SystemExit, match="config.yaml"):
        measure(tmp_path)
    with pytest.raises(SystemExit, match="clutter_voc_test is not one of DATASETS.TRAIN"):
        measure(run, "--dataset", "clutter_voc_test")
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(SystemExit, match=r"has no checkpoint, model_\*.pth"):
        measure(tmp_path)
