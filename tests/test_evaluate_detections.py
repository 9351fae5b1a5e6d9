import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, make_voc, use_clutter
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Boxes, BoxMode, Instances

from ohem_d2.commands import evaluate_detections
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.evaluation import build_evaluator

pytestmark = pytest.mark.slow

FILES = {"clutter_voc_test": "", "clutter_coco_test": "coco_instances_results.json"}


@pytest.fixture
def root(tmp_path):
    generate_clutter(str(tmp_path), 0, {"train": 1, "test": 12})
    use_clutter(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch):
    """
    The tool in this process.
    """

    def run(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["evaluate_detections.py", *map(str, arguments)])
            evaluate_detections.main()

    return run


class Detector(torch.nn.Module):
    """
    It finds the objects of its inputs, moved about, twice each, some as another class.
    """

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, inputs):
        return [{"instances": self.detect(x)} for x in inputs]

    def detect(self, record):
        objects = record["annotations"] * 2
        boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in objects]
        boxes = torch.tensor(boxes).reshape(-1, 4)
        classes = torch.tensor([x["category_id"] for x in objects], dtype=torch.int64)
        scores = torch.rand(len(objects), generator=self.generator)
        classes[scores < 0.2] = 0
        return Instances(
            (record["height"], record["width"]),
            pred_boxes=Boxes(boxes + torch.randn(boxes.shape, generator=self.generator)),
            scores=scores,
            pred_classes=classes,
        )


@pytest.fixture
def evaluated(root):
    """
    By name of a dataset, the results of the run with the model, and the detections that it left.
    """
    evaluated = {}
    for name, file in FILES.items():
        loader = [[x] for x in DatasetCatalog.get(name)]
        evaluator = build_evaluator(name, str(root / "run" / name))
        results = inference_on_dataset(Detector(), loader, evaluator)
        assert 0 < results["bbox"]["AP"] < results["bbox"]["AP50"] < 100
        evaluated[name] = results["bbox"], root / "run" / name / file
    return evaluated


def test_results_are_those_of_the_run(evaluated, root, run, capsys):
    for name, (expected, detections) in evaluated.items():
        output = root / "new" / name
        run(name, detections, "--output", output)
        table = capsys.readouterr().out.splitlines()
        assert [x.split() for x in table[:1]] == [["|", "%", "|", "bbox", "|"]]
        rows = dict(x.replace("|", " ").split() for x in table[2:])
        # The dataset has no objects of some sizes.
        rows = {k: float(x) for k, x in rows.items()}
        assert rows == pytest.approx(expected, abs=0.051, nan_ok=True)
        results = json.loads((output / "results.json").read_text())
        results = {k: float("nan") if x is None else x for k, x in results["bbox"].items()}
        assert results == pytest.approx(expected, rel=1e-12, nan_ok=True)
    file = "clutter_voc_test/voc_results.json"
    assert (root / "new" / file).read_bytes() == (root / "run" / file).read_bytes()
    assert not list((root / "new").glob("*.*"))


def test_command_line(root):
    # Of a dataset that a module of the user registers, in the folder that is the current one.
    make_voc(
        root / "voc",
        "mine",
        {"a": [("dog", (11, 11, 40, 30), 0), ("cow", (1, 1, 9, 9), 1)], "b": []},
    )
    DatasetCatalog.remove("mine")
    MetadataCatalog.pop("mine")
    (root / "my_datasets.py").write_text(
        "from detectron2.data import MetadataCatalog\n"
        "from detectron2.data.datasets import register_pascal_voc\n"
        f"register_pascal_voc('mine', {str(root / 'voc')!r}, 'train', 2012, ('dog', 'cow'))\n"
        "MetadataCatalog.get('mine').evaluator_type = 'pascal_voc'\n"
    )
    (root / "detections").mkdir()
    (root / "detections/comp4_det_train_dog.txt").write_text("a 0.5 11 11 40 30\n")
    (root / "detections/comp4_det_train_cow.txt").write_text("")
    arguments = ["mine", "detections", "--import", "my_datasets"]
    result = subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "tools/evaluate_detections.py", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    # The only dog is found. The cow is difficult.
    assert [x.split() for x in result.stdout.replace("|", " ").splitlines()] == [
        ["%", "bbox"],
        ["----------", "--------"],
        *(["AP", "100.0"], ["AP50", "100.0"], ["AP75", "100.0"]),
        *(["AP50-dog", "100.0"], ["AP50-cow", "nan"]),
    ]


def test_without_detections(root, run, capsys):
    (root / "none.json").write_text("[]")
    run("clutter_coco_test", root / "none.json", "--output", root / "output")
    assert "| AP50 |    nan |" in capsys.readouterr().out
    assert json.loads((root / "output/results.json").read_text())["bbox"]["AP"] is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["clutter_coco_tset", "good.json"], "clutter_coco_tset, .* Did you mean clutter_coco_te"),
        (["clutter_coco_test", "nowhere.json"], "nowhere.json does not exist"),
        (["clutter_coco_test", "folder"], "clutter_coco_test does not have PASCAL VOC's layout"),
        (["clutter_voc_test", "folder"], "comp4_det_test_triangle.txt is missing"),
        (["clutter_coco_test", "bad.json"], "bad.json: detection 0, .* has category_id 9"),
        (["voc_2007_test", "folder"], "voc_2007_test .*needs .*, which does not exist"),
        (["clutter_coco_test", "good.json", "--import", "my_data"], "No module named 'my_data'"),
        (["clutter_coco_test", "good.json", "--output", "folder"], "folder already exists"),
    ],
)
def test_refusals(root, run, monkeypatch, arguments, message):
    monkeypatch.chdir(root)
    detection = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    Path("good.json").write_text(json.dumps([detection]))
    Path("bad.json").write_text(json.dumps([{**detection, "category_id": 9}]))
    Path("folder").mkdir()
    if "--output" not in arguments:
        arguments = [*arguments, "--output", "output"]
    with pytest.raises(SystemExit, match=r"^evaluate_detections.py: .*" + message):
        run(*arguments)
    assert not list(root.glob("output*")) and not list(Path("folder").iterdir())
