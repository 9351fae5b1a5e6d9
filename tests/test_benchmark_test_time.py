"""
That the benchmark runs, and compares what is comparable: no time is tested.
"""

import sys

import numpy as np
import pytest
import torch
from conftest import CONFIGS, load_config, use_clutter
from detectron2.modeling import build_model

from benchmarks import test_time as benchmark
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.modeling.test_time.box_voting import box_voting

CONFIG = "demo/faster_rcnn_R_18_ohem.yaml"


@pytest.fixture
def small(tmp_path, monkeypatch):
    """
    Everything smaller, and the path of random weights.
    """
    generate_clutter(str(tmp_path), 0, {"train": 1, "test": 2})
    use_clutter(tmp_path)
    monkeypatch.setattr(benchmark, "HEAVY_CONFIG", CONFIGS / CONFIG)
    monkeypatch.setattr(benchmark, "HEAVY_IMAGE", (64, 80))
    monkeypatch.setattr(benchmark, "HEAVY_NUM_BOXES", (30, 60))
    monkeypatch.setattr(benchmark, "NUM_BOXES", (40,))
    weights = tmp_path / "random.pth"
    model = build_model(load_config(CONFIG, "MODEL.DEVICE", "cpu"))
    torch.save({"model": model.state_dict()}, weights)
    return weights


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["test_time.py", *map(str, arguments)])
    benchmark.main()


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
    assert [x[1] for x in rows[10:12]] == ["30", "60"]
    # 40 boxes of 1 and of 20 classes, with top-k and without.
    assert [x[1:4] for x in rows if x[0] == "cpu"] == [
        ["40", classes, topk] for classes in ("1", "20") for topk in ("100", "all")
    ]


def test_numpy_loop_gives_the_same_boxes():
    boxes, scores, classes = benchmark.make_boxes(500, 3, 200, 300)
    voted, _, keep = box_voting(boxes, scores, classes, benchmark.NMS_THRESH)
    arrays = (x.numpy() for x in (boxes, scores, classes, keep))
    np.testing.assert_allclose(voted, benchmark.numpy_box_voting(*arrays), atol=1e-3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--weights", "none.pth"], "MODEL.WEIGHTS is none.pth, which does not exist"),
        (["--weights", __file__, "--images", 0], "--images and --repeats must be 1 or more"),
    ],
)
def test_bad_input(small, monkeypatch, arguments, message):
    with pytest.raises(SystemExit, match=f"test_time.py: .*{message}"):
        run(monkeypatch, *arguments)
