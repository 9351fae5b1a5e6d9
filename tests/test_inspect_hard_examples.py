"""
The tool, on a small dataset with a detector of random weights.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import VOC_IMAGES, load_config, make_voc, use_clutter
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from pycocotools.coco import COCO

from ohem_d2.commands import inspect_hard_examples as tool
from ohem_d2.data.datasets.clutter import generate_clutter

pytest_plugins = ["pages"]
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "configs/demo/faster_rcnn_R_18_ohem.yaml")
NUM_IMAGES = 6


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    generate_clutter(str(root), 0, {"train": NUM_IMAGES, "test": 2})
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = build_model(load_config("demo/faster_rcnn_R_18_ohem.yaml", "MODEL.DEVICE", "cpu"))
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


@pytest.fixture
def run(datasets, weights, tmp_path, monkeypatch):
    """
    Runs the tool in this process, and returns the folder that it has written.
    """
    use_clutter(datasets)

    def run(*arguments, output="output", opts=()):
        command = ["inspect_hard_examples.py", "--config-file", CONFIG, *arguments]
        command += ["--output", str(tmp_path / output), "MODEL.DEVICE", "cpu"]
        command += ["MODEL.WEIGHTS", str(weights), *opts]
        monkeypatch.setattr(sys, "argv", command)
        tool.main()
        return tmp_path / output

    return run


def read_rows(folder):
    with open(folder / "hard_examples.csv", newline="") as f:
        return list(csv.DictReader(f))


def test_as_a_process(datasets, weights, tmp_path, open_page):
    options = ["MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(tmp_path)]
    process = subprocess.run(
        [sys.executable, "tools/inspect_hard_examples.py", "--config-file", CONFIG, *options],
        cwd=ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    folder = tmp_path / "hard_examples/clutter_voc_train"
    assert process.stdout.splitlines()[-1] == f"Open {folder}/index.html"
    assert f"{NUM_IMAGES}/{NUM_IMAGES}" in process.stderr  # progress

    rows = read_rows(folder)
    coco = COCO(str(folder / "hard_examples_coco.json"))
    page = open_page(folder / "index.html")
    assert page.locator("h1").inner_text() == "Hard examples of clutter_voc_train"
    shown = page.locator("#count").inner_text()
    assert shown == f"{len(rows)} of {len(rows)}" and len(coco.getAnnIds()) == len(rows) > 10
    # The same ones everywhere, the hardest of each kind first.
    first = page.locator(".tile .loss").first.text_content()
    assert first == f"loss {float(rows[0]['loss']):.2f}"
    for kind in {x["kind"] for x in rows}:
        of_kind = [float(x["loss"]) for x in rows if x["kind"] == kind]
        assert of_kind == sorted(of_kind, reverse=True)
    names = {x["file_name"] for x in coco.loadImgs(coco.getImgIds())}
    assert names == {Path(x["file_name"]).name for x in rows}
    page.locator(".tile").first.click()
    assert page.locator("#whole img").evaluate("x => x.decode().then(() => x.naturalWidth)") == 208


def test_a_run_that_was_stopped_goes_on(run, monkeypatch, capsys):
    whole = run(output="whole")
    monkeypatch.setattr(tool, "SAVE_PERIOD", 0)
    find, looked_at = tool.find_hard_examples, []

    def stop_at_the_fourth(model, inputs, *args):
        if len(looked_at) == 3:
            raise KeyboardInterrupt
        looked_at.append(inputs["file_name"])
        return find(model, inputs, *args)

    monkeypatch.setattr(tool, "find_hard_examples", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run()

    def count(model, inputs, *args):
        looked_at.append(inputs["file_name"])
        return find(model, inputs, *args)

    monkeypatch.setattr(tool, "find_hard_examples", count)
    output = run()
    assert len(looked_at) == len(set(looked_at)) == NUM_IMAGES
    files = sorted(x.relative_to(whole) for x in whole.rglob("*") if x.is_file())
    assert sorted(x.relative_to(output) for x in output.rglob("*") if x.is_file()) == files
    for file in files:
        assert (output / file).read_bytes() == (whole / file).read_bytes(), file

    # Once more: nothing is left to do, and no model is needed.
    monkeypatch.setattr(tool, "load_model", None)
    run()


def test_how_many_are_shown(run):
    folder = run("--max-examples", "2")
    rows = read_rows(folder)
    kinds = [x["kind"] for x in rows]
    assert all(kinds.count(x) <= 2 for x in kinds) and kinds.count("nothing annotated") == 2


def test_another_dataset(run):
    folder = run("--dataset", "clutter_coco_test")
    saved = json.loads((folder / "hard_examples.json").read_text())
    assert saved["num_images"] == 2 and saved["description"]["dataset"] == "clutter_coco_test"


def error(run, *arguments, **options):
    with pytest.raises(SystemExit) as e:
        run(*arguments, **options)
    return str(e.value)


@pytest.mark.parametrize(
    "arguments, opts, message",
    [
        (["--nms-thresh", "2"], [], "--nms-thresh must be from 0 to 1, not 2.0."),
        (["--max-examples", "0"], [], "--max-examples must be at least 1, not 0."),
        (["--dataset", "clutter_voc_trian"], [], "Did you mean clutter_voc_train"),
        (["--import", "no_such_module"], [], "No module named 'no_such_module'"),
        (
            [],
            ["DATASETS.TRAIN", ("clutter_voc_train", "clutter_coco_train")],
            "DATASETS.TRAIN has 2 datasets. Choose one with --dataset.",
        ),
        (
            [],
            ["MODEL.ROI_HEADS.NUM_CLASSES", "3"],
            "MODEL.ROI_HEADS.NUM_CLASSES is 3, but clutter_voc_train has 4 classes",
        ),
        ([], ["MODEL.ROI_BOX_HEAD.FC_DIM", "16"], "do not fit the model in the config"),
        (
            [],
            ["MODEL.META_ARCHITECTURE", "ProposalNetwork"],
            "MODEL.META_ARCHITECTURE ProposalNetwork has no RoIs.",
        ),
        ([], ["MODEL.WEIGHTS", ""], "MODEL.WEIGHTS is empty"),
    ],
)
def test_what_cannot_be_used(run, arguments, opts, message):
    told = error(run, *arguments, opts=map(str, opts))
    assert told.startswith("inspect_hard_examples.py: ") and message in told


def test_a_folder_of_another_run(run):
    before = (run() / "hard_examples.json").read_bytes()
    told = error(run, "--nms-thresh", "0.7")
    assert "is from another run, with different nms_thresh. Choose another output" in told
    assert (run() / "hard_examples.json").read_bytes() == before
    told = error(run, opts=["TEST.DETECTIONS_PER_IMAGE", "7"])
    assert "with different config." in told


def test_pictures_of_another_run(run):
    """
    They would be shown in place of those of this one.
    """
    folder = run()
    (folder / "hard_examples.json").unlink()
    crop = (folder / "crops/000000.jpg").read_bytes()
    told = error(run, "--nms-thresh", "0.7")
    assert "has pictures, but not the hard_examples.json that they belong to" in told
    assert (folder / "crops/000000.jpg").read_bytes() == crop


def test_images_without_annotations(run, tmp_path):
    (tmp_path / "a.jpg").touch()
    record = {"file_name": str(tmp_path / "a.jpg"), "image_id": 1}
    DatasetCatalog.register("plain", lambda: [record])
    MetadataCatalog.get("plain").set(thing_classes=list("abcd"))
    try:
        assert "plain has images without annotations" in error(run, "--dataset", "plain")
    finally:
        DatasetCatalog.remove("plain")
        MetadataCatalog.pop("plain")


def test_weights_of_a_training_that_diverged(run, weights, tmp_path):
    checkpoint = torch.load(weights)
    checkpoint["model"]["roi_heads.box_predictor.cls_score.bias"].fill_(float("nan"))
    torch.save(checkpoint, tmp_path / "diverged.pth")
    told = error(run, opts=["MODEL.WEIGHTS", str(tmp_path / "diverged.pth")])
    assert "are not finite" in told


def test_difficult_objects_are_not_looked_at(run, tmp_path):
    make_voc(tmp_path / "voc", "made_voc_train", VOC_IMAGES)
    try:
        options = ["MODEL.ROI_HEADS.NUM_CLASSES", "3"]
        cfg = load_config("demo/faster_rcnn_R_18_ohem.yaml", "MODEL.DEVICE", "cpu", *options)
        torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "three.pth")
        options += ["MODEL.WEIGHTS", str(tmp_path / "three.pth")]
        folder = run("--dataset", "made_voc_train", opts=options)
    finally:
        DatasetCatalog.remove("made_voc_train")
        MetadataCatalog.pop("made_voc_train")
    rows = read_rows(folder)
    about = {Path(x["file_name"]).stem: x["gt_class"] for x in rows if x["gt_class"]}
    assert about == {"both": "dog", "easy_alone": "dog", "without_the_flag": "cat"}
