"""
What the README and the other pages say about the code.
"""

import ast
import re

import numpy as np
import pytest
import torch
from conftest import (
    ROOT,
    build_heads,
    flat,
    heads_config,
    load_config,
    make_features,
    make_inputs,
    make_proposals,
    make_targets,
    train_step,
    use_clutter,
)
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage

import ohem_d2
from ohem_d2 import OHEMMixin, add_ohem_config
from ohem_d2.data.datasets.clutter import generate_clutter

PAGES = sorted(
    str(x.relative_to(ROOT)) for folder in (ROOT, ROOT / "docs") for x in folder.glob("*.md")
)


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def snippets(page):
    return re.findall(r"```python\n(.*?)```", read(page), re.DOTALL)


@pytest.mark.parametrize("snippet", range(3))
def test_snippets_build_a_model_that_mines(snippet):
    assert len(snippets("README.md")) == 3
    names = {}
    exec(snippets("README.md")[snippet], names)
    cfg = names["cfg"]
    cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone":  # detectron2's default is C4
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
        cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res5"]
        cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
        cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
        cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16  # fast
    assert isinstance(build_model(cfg).roi_heads, OHEMMixin)


def test_heads_of_a_user_from_the_docs():
    (snippet,) = (x for x in snippets("docs/configs.md") if "OHEMMixin" in x)
    exec(snippet, {})
    heads = build_heads(heads_config(MODEL__ROI_HEADS__NAME="OHEMContextROIHeads"))
    rois, losses, _ = train_step(heads, *make_inputs())
    assert [len(x) for x in rois] == [16] * 3 and all(map(torch.isfinite, losses.values()))


@pytest.mark.parametrize("snippet", range(2))
@torch.no_grad()
def test_snippets_of_test_time(snippet):
    assert len(snippets("docs/test_time.md")) == 2
    options = ["MODEL.DEVICE", "cpu", "TEST.AUG.ENABLED", True, "TEST.BOX_VOTING.ENABLED", True]
    cfg = load_config("demo/faster_rcnn_R_18.yaml", *options)
    predictor = DefaultPredictor(cfg)
    names = {"cfg": cfg, "model": predictor.model}
    exec(snippets("docs/test_time.md")[snippet], names)
    predictor.model = names["model"]
    output = predictor(np.zeros((60, 80, 3), dtype=np.uint8))
    assert output["instances"].image_size == (60, 80)


def test_snippet_of_configs(tmp_path):
    (config,) = re.findall(r"```yaml\n(.*?)```", read("docs/configs.md"), re.DOTALL)
    (tmp_path / "my_config.yaml").write_text(config)
    cfg = load_config(tmp_path / "my_config.yaml", "MODEL.DEVICE", "cpu")
    assert isinstance(build_model(cfg).roi_heads, OHEMMixin)


def test_snippet_of_ignore_regions(tmp_path):
    generate_clutter(str(tmp_path), 0, {"train": 4, "test": 1})
    use_clutter(tmp_path)
    (snippet,) = snippets("docs/ignore_regions.md")
    names = {"cfg": load_config("demo/faster_rcnn_R_18.yaml", "DATALOADER.NUM_WORKERS", 0)}
    exec(snippet, names)
    batch = next(iter(names["loader"]))
    assert all(x["instances"].has("gt_boxes") for x in batch)


def test_settings():
    """
    The page has every key that is added to detectron2's config, with its default, and no other.
    """
    theirs = dict(flat(get_cfg()))
    cfg = get_cfg()
    add_ohem_config(cfg)
    added = {k: v for k, v in flat(cfg) if k not in theirs}
    table_rows = re.findall(r"^\| `([A-Z][\w.]+)` \| (.*?) \|", read("docs/settings.md"), re.M)
    assert len({k for k, _ in table_rows}) == len(table_rows)
    rows = {k: ast.literal_eval(v) for k, v in table_rows}
    assert rows.pop("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE") == (
        cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    )
    assert rows == added


@pytest.mark.parametrize("page", PAGES)
def test_keys_exist(page):
    cfg = get_cfg()
    add_ohem_config(cfg)
    keys = dict(flat(cfg))
    for key in re.findall(r"`((?:MODEL|SOLVER|TEST|DATASETS|INPUT)(?:\.[A-Z0-9_]+)+)", read(page)):
        assert key in keys or any(x.startswith(f"{key}.") for x in keys), key


def test_scalars():
    """
    The page has every scalar and picture of a step, and no other.
    """
    heads = build_heads(heads_config(VIS_PERIOD=1, MODEL__OHEM__WARMUP_ITERS=0))
    targets = make_targets((3, 2))
    images = ImageList.from_tensors([torch.zeros(3, *x.image_size) for x in targets], 32)
    with EventStorage(0) as storage:
        heads(images, make_features(2), make_proposals(targets, [30, 30]), targets)
    logged = {*storage.latest(), *(name for name, _, _ in storage._vis_data)}
    logged = {re.sub(r"mistaken_for/.*", "mistaken_for/CLASS", x) for x in logged}
    section = read("docs/settings.md").split("## What it logs")[1]
    described = set(re.findall(r"`((?:ohem|roi_head)/[\w/]+)`", section))
    # detectron2's own predictor logs what it does of the kept RoIs.
    assert described == {x for x in logged if not x.startswith("fast_rcnn/")}


def anchors(page):
    """
    Of the headings of a page, as GitHub makes them.
    """
    text = re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", x.lower()).replace(" ", "-") for x in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files(page):
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", read(page)):
        file, _, anchor = link.partition("#")
        target = (folder / file).resolve() if file else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.relative_to(ROOT)), link
    # Of commands as well; "NAME" and "*" stand for others.
    file_names = r"\b((?:tools|configs|ohem_d2|tests|benchmarks|docs/figures)/[\w/.-]*\w)(?![\w*])"
    for file in re.findall(file_names, read(page)):
        assert "NET" in file or (ROOT / file).exists(), file


def test_configs_that_are_described_are_there():
    text = read("docs/configs.md")
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


def test_results_are_those_of_the_pages():
    """
    Every number of the README's table is on the pages of results.
    """
    section = read("README.md").split("## Does it help?")[1].split("\n## ")[0]
    rows = [x for x in section.splitlines() if x.startswith("|")][2:]
    assert len(rows) == 2
    results = read("docs/results.md")
    for row in rows:
        _, _, *values = (x.strip() for x in row.strip("|").split("|"))
        assert len(values) == 3 and all(f" {x} " in results for x in values), row


def test_versions_agree():
    versions = {
        re.search(pattern, read(file)).group(1)
        for file, pattern in {
            "setup.py": r'version="([^"]+)"',
            "CITATION.cff": r"\nversion: (\S+)",
            "README.md": r"version *= \{([^}]+)\}",
            "CHANGELOG.md": r"\n## (\S+)",
        }.items()
    }
    assert versions == {ohem_d2.__version__}
