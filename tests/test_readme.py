"""
What the README says of the code.
"""

import ast
import re

import numpy as np
import pytest
import torch
from conftest import ROOT, flat, load_config
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from ohem_d2 import OHEMMixin, add_ohem_config

README = (ROOT / "README.md").read_text()
PAGES = ["README.md", *(f"docs/{x.name}" for x in (ROOT / "docs").glob("*.md"))]
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_build_a_model_that_mines(snippet):
    names = {}
    exec(snippet, names)
    cfg = names["cfg"]
    cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone":  # detectron2's default is C4
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
        cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res5"]
        cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
        cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    assert isinstance(build_model(cfg).roi_heads, OHEMMixin)


def test_there_are_snippets():
    assert len(SNIPPETS) == 3


@pytest.mark.parametrize("snippet", range(2))
@torch.no_grad()
def test_snippets_of_test_time(snippet):
    text = (ROOT / "docs/test_time.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 2
    options = ["MODEL.DEVICE", "cpu", "TEST.AUG.ENABLED", True, "TEST.BOX_VOTING.ENABLED", True]
    cfg = load_config("demo/faster_rcnn_R_18.yaml", *options)
    predictor = DefaultPredictor(cfg)
    names = {"cfg": cfg, "model": predictor.model}
    exec(snippets[snippet], names)
    predictor.model = names["model"]
    output = predictor(np.zeros((60, 80, 3), dtype=np.uint8))
    assert output["instances"].image_size == (60, 80)


def test_settings():
    """
    The table has every key that is added to detectron2's config, with its default.
    """
    theirs = dict(flat(get_cfg()))
    cfg = get_cfg()
    add_ohem_config(cfg)
    added = {k: v for k, v in flat(cfg) if k not in theirs}
    rows = dict(re.findall(r"^\| `([A-Z][\w.]+)` \| (.*?) \|", README, re.MULTILINE))
    rows = {k: ast.literal_eval(v) for k, v in rows.items()}
    assert rows.pop("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE") == (
        cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    )
    assert rows == added


@pytest.mark.parametrize("page", PAGES)
def test_files(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(((?!http|#)[^)#]+)[^)]*\)", text):
        assert ((ROOT / page).parent / link).exists(), link
    for file in re.findall(r"`((?:tools|configs|ohem_d2|tests)/[\w/.]*)`", text):
        assert (ROOT / file).exists(), file


def test_configs_that_are_described_are_there():
    text = (ROOT / "docs/configs.md").read_text()
    described = set()
    for net in ("VGG16", "VGG_CNN_M_1024"):
        described |= {
            f"PascalVOC-Detection/{x.replace('NET', net)}"
            for x in re.findall(r"`(fast_rcnn_NET\w*\.yaml)`", text)
        }
    for x in re.findall(r"`(\w+-Detection/fast_rcnn_VGG16\w*)`", text):
        described |= {f"{x}{y}.yaml" for y in ("", "_ohem", "_multi_scale", "_multi_scale_ohem")}
    described |= set(re.findall(r"configs/(demo/\w+\.yaml)", text))
    twins = {x for x in described if x.startswith("demo/") and "_ohem" not in x}
    described |= {x.replace(".yaml", "_ohem.yaml") for x in twins}
    described |= set(re.findall(r"configs/(benchmarks/\w+\.yaml)", text))
    there = {str(x.relative_to(ROOT / "configs")) for x in (ROOT / "configs").rglob("*.yaml")}
    assert described == {x for x in there if not x.startswith("Base-")}


def test_results_are_those_of_the_page():
    section = README.split("## Does it help?")[1].split("\n## ")[0]
    page = (ROOT / "docs/results.md").read_text()
    rows = [x for x in section.splitlines() if x.startswith("|")]
    assert len(rows) == 2 * 5  # two datasets, three recipes
    assert all(row in page for row in rows)
    numbers = re.findall(r"\d+\.\d AP\b", section)
    assert numbers and all(x in page for x in numbers)
