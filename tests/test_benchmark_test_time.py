"""
The benchmark runs and compares what is comparable. No time is tested.
"""

import sys

import pytest
import torch
from conftest import load_config, use_clutter
from detectron2.modeling import build_model

from benchmarks import test_time as benchmark
from ohem_d2.data.datasets.clutter import generate_clutter

CONFIG = "demo/faster_rcnn_R_18_ohem.yaml"


@pytest.fixture
def small(tmp_path):
    """
    The benchmark made small, and the path of random weights.
    """
    generate_clutter(str(tmp_path), 0, {"train": 1, "test": 2})
    use_clutter(tmp_path)
    weights = tmp_path / "random.pth"
    model = build_model(load_config(CONFIG, "MODEL.DEVICE", "cpu"))
    torch.save({"model": model.state_dict()}, weights)
    return weights


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["test_time.py", *map(str, arguments)])
    benchmark.main()


@pytest.mark.slow
def test_tables(small, tmp_path, monkeypatch, capsys):
    output = tmp_path / "new/bench.md"
    options = ["TEST.AUG.MIN_SIZES", "(64,80)", "INPUT.MIN_SIZE_TEST", "64"]
    options += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    arguments = ["--weights", small, "--images", 2, "--repeats", 1, "--output", output]
    run(monkeypatch, *arguments, *options)
    text = capsys.readouterr().out
    assert output.read_text() == text
    rows = [[x.strip() for x in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert [x[:3] for x in rows[2:7]] == [
        ["-", "-", "-"],
        ["-", "yes", "-"],
        ["-", "-", "yes"],
        ["-", "yes", "yes"],
        ["yes", "yes", "yes"],
    ]
    assert rows[6][3:] == rows[5][3:] and rows[2][4] == "1.00"
    assert len(rows[9]) == 6 and rows[9][5].endswith("%")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--weights", "none.pth"], "MODEL.WEIGHTS is none.pth, which does not exist"),
        (["--weights", __file__, "--images", 0], "--images and --repeats must be 1 or more"),
    ],
)
def test_bad_input(small, monkeypatch, arguments, message):
    with pytest.raises(SystemExit, match=f"test_time: .*{message}"):
        run(monkeypatch, *arguments)
