"""
What the README says of the code.
"""

import ast
import re
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from ohem_d2 import OHEMROIHeads, add_ohem_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
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
    assert isinstance(build_model(cfg).roi_heads, OHEMROIHeads)


def test_there_are_snippets():
    assert len(SNIPPETS) == 2


def test_settings():
    cfg = get_cfg()
    add_ohem_config(cfg)
    rows = dict(re.findall(r"^\| `MODEL\.OHEM\.(\w+)` \| (.*?) \|", README, re.MULTILINE))
    assert {k: ast.literal_eval(v) for k, v in rows.items()} == dict(cfg.MODEL.OHEM)
    batch = re.search(r"`MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE` \| (\d+)", README)
    assert int(batch.group(1)) == cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE


def test_scalars():
    source = (ROOT / "ohem_d2/modeling/roi_heads/ohem.py").read_text()
    logged = set(re.findall(r'put_scalar\("([^"]+)"', source))
    assert len(logged) == 9
    assert all(f"`{name}`" in README for name in logged)


def test_files():
    for name in re.findall(r"\]\(((?!http)[^)]+)\)|`((?:tools|configs|ohem_d2)/[\w/.]*)`", README):
        assert (ROOT / (name[0] or name[1])).exists(), name
