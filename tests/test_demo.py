"""
The demo with a tiny budget.
"""

import sys

import cv2
import demo
import torch
from conftest import use_clutter
from pages import fits_its_window

from ohem_d2.data.datasets.clutter import generate_clutter

pytest_plugins = ["pages"]


def test_leaves_a_page_with_its_pictures(tmp_path, monkeypatch, capsys, open_page):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))  # for train_net.py
    use_clutter(tmp_path)
    counts = {"train": 8, "test": 4}
    monkeypatch.setattr(demo, "generate_clutter", lambda root: generate_clutter(root, 0, counts))
    output = tmp_path / "demo"
    output.mkdir()
    (output / "mine.txt").touch()
    options = ["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2"]
    options += ["SOLVER.IMS_PER_BATCH", "1", "MODEL.OHEM.WARMUP_ITERS", "2"]
    options += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.2"]
    monkeypatch.setattr(sys, "argv", ["demo.py", "--output", str(output), *options])
    demo.main()
    printed = capsys.readouterr().out
    assert "mean loss over all RoIs" in printed and "4/4" in printed
    assert (tmp_path / "demo.previous" / "mine.txt").exists()

    page = open_page(output / "index.html", viewport={"width": 390, "height": 844})
    links = [x.get_attribute("src") for x in page.locator("img").all()]
    assert links == ["curves.png", "hard_rois.jpg", "detections.jpg"]
    for link in links:
        assert cv2.imread(str(output / link)).std() > 5, link
    rows = page.locator("td:first-child").all_inner_texts()
    assert {"AP50, VOC", "AP50, COCO", "seconds per iteration"} <= set(rows)
    assert fits_its_window(page)
    # Same initial weights, different training.
    weights = [
        torch.load(x / "model_final.pth", weights_only=False)["model"]
        for x in sorted(output.glob("faster_rcnn*"))
    ]
    assert len(weights) == 2 and weights[0].keys() == weights[1].keys()
    assert not torch.equal(*(x["roi_heads.box_predictor.cls_score.weight"] for x in weights))
