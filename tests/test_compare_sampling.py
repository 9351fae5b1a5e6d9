"""
The laboratory: that what it compares is comparable, that it runs, and that it goes on.
"""

import json
import subprocess
import sys
from pathlib import Path

import compare_sampling
import pytest
import sampling_experiments
import sampling_run
import torch
import torchvision
from conftest import use_clutter
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import ROI_HEADS_REGISTRY, build_model
from detectron2.utils.env import seed_all_rng
from kept_rois import hard_by_iou
from oracles import select_slowly
from result_files import ResultError
from result_lines import run_line
from sampling_experiments import CONFIGS, DATASETS, EXPERIMENTS, RECIPES, Recipe, Run

from ohem_d2.data import build_train_loader
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.engine import load_config
from ohem_d2.evaluation import build_mean_roi_loss_loader
from ohem_d2.evaluation.mean_roi_loss import features_and_rois
from ohem_d2.modeling.roi_heads import read_only_roi_losses

SMALL = {"SOLVER.MAX_ITER": 4, "SOLVER.STEPS": (), "INPUT.MIN_SIZE_TRAIN": (64,), "VIS_PERIOD": 0}


def forget(name):
    DatasetCatalog.pop(name)
    MetadataCatalog.pop(name)


@pytest.fixture
def clutter(tmp_path, monkeypatch):
    generate_clutter(str(tmp_path), 0, {"train": 6, "test": 2})
    use_clutter(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))


def config(dataset, recipe, **options):
    options = {**DATASETS[dataset].options, **RECIPES[recipe].options, **options}
    return load_config(
        str(CONFIGS / DATASETS[dataset].config),
        sampling_run.to_opts({"MODEL.DEVICE": "cpu", "SEED": 3, **options}),
    )


def initial(cfg):
    """
    What default_setup seeds before the Trainer builds its model and its loader.
    """
    seed_all_rng(cfg.SEED)
    weights = build_model(cfg).state_dict()
    loader = iter(build_train_loader(cfg))
    return weights, [x["image_id"] for _ in range(3) for x in next(loader)]


@pytest.mark.parametrize("recipe", [x for x in RECIPES if x != "stock"])
def test_recipes_begin_with_the_same_weights_and_see_the_same_images(recipe, clutter):
    weights, images = initial(config("clutter", "stock"))
    other_weights, other_images = initial(config("clutter", recipe))
    assert images == other_images
    assert list(weights) == list(other_weights)
    assert all(torch.equal(weights[x], other_weights[x]) for x in weights)


def test_experiments_name_what_there_is():
    for experiment in EXPERIMENTS.values():
        for run in experiment.runs():
            assert run.dataset in DATASETS
            assert config(run.dataset, run.recipe).MODEL.ROI_HEADS.NAME in ROI_HEADS_REGISTRY


def test_a_share_of_the_annotations_is_missing_in_training_alone(clutter, monkeypatch):
    dataset = DATASETS["clutter"]._replace(missing=0.3)
    monkeypatch.setitem(DATASETS, "clutter", dataset)
    names = sampling_experiments.register("clutter", Path("unused"))
    try:
        rest, complete = (
            [x["annotations"] for x in DatasetCatalog.get(name)]
            for name in (names.train, names.complete_train)
        )
        num_rest, num_complete = sum(map(len, rest)), sum(map(len, complete))
        # 30 % of some 25, give or take three times the deviation of a binomial, 3 * sqrt(25 * .21).
        assert abs(num_rest - 0.7 * num_complete) < 3 * (0.21 * num_complete) ** 0.5
        assert all(
            x in all_of_them for some, all_of_them in zip(rest, complete, strict=True) for x in some
        )
        again = [x["annotations"] for x in DatasetCatalog.get(names.train)]
        assert again == rest
        assert names.test == "clutter_voc_test"
    finally:
        forget(names.train)


def test_a_class_is_background(voc, monkeypatch, tmp_path):
    dataset = DATASETS["bccd"]._replace(
        folder="voc", class_names=("cat", "cow"), background_classes=("dog",)
    )
    monkeypatch.setitem(DATASETS, "cattle", dataset)
    names = sampling_experiments.register("cattle", tmp_path)
    try:
        found = {
            Path(x["file_name"]).stem: [y["category_id"] for y in x["annotations"]]
            for x in DatasetCatalog.get(names.train)
        }
        # VOC_IMAGES without its dogs.
        assert found == {
            "both": [1],
            "difficult_alone": [1],
            "easy_alone": [],
            "without_the_flag": [0],
        }
        assert MetadataCatalog.get(names.test).thing_classes == ["cat", "cow"]
    finally:
        forget(names.train)
        forget(names.test)


def run_sampling(monkeypatch, tmp_path, recipe):
    """
    The result of one run on the made images, with 4 iterations.
    """
    monkeypatch.setitem(RECIPES, "tried", Recipe("Tried", {**SMALL, **recipe}))
    folder = tmp_path / "run"
    command = ["sampling_run.py", "--data", "unused", "--backbone-weights", "unused"]
    command += ["--output", str(folder), "clutter", "tried", "2"]
    monkeypatch.setattr(sys, "argv", command)
    sampling_run.main()
    return json.loads((folder / "result.json").read_text())


def test_a_run(clutter, monkeypatch, tmp_path):
    result = run_sampling(monkeypatch, tmp_path, {"MODEL.ROI_HEADS.NAME": "OHEMROIHeads"})
    assert (result["dataset"], result["recipe"], result["seed"]) == ("clutter", "tried", 2)
    assert result["options"]["MODEL.ROI_HEADS.NAME"] == "OHEMROIHeads"
    assert result["iterations"] == 4
    assert 0 <= result["AP"] <= result["AP50"] <= 100
    assert result["diverged_at"] is None
    assert [iteration for iteration, _ in result["mean_roi_loss"]] == [1, 2, 3, 4]
    assert all(loss > 0 for _, loss in result["mean_roi_loss"])
    assert len(result["hard_by_iou"]["all"]) == len(result["hard_by_iou"]["hard"]) == 5
    assert result["curves"]["iteration"] == [3]
    assert len(result["curves"]["num_fg"]) == 1
    assert {"commit", "machine", "torch", "detectron2", "date"} <= set(result)


def test_the_hard_rois_are_counted_by_their_iou(clutter):
    cfg = config("clutter", "stock")
    model = build_model(cfg)
    inputs = list(build_mean_roi_loss_loader(cfg, "clutter_voc_test"))
    counts = hard_by_iou(model, inputs, 20)

    expected = {"all": [0] * 5, "hard": [0] * 5}
    model.eval()
    for batch in inputs:
        features, [rois] = features_and_rois(model, batch)
        losses = read_only_roi_losses(model.roi_heads, features, [rois])
        boxes = rois.proposal_boxes.tensor
        ious = torchvision.ops.box_iou(boxes, batch[0]["instances"].gt_boxes.tensor).amax(dim=1)
        loss = (losses["loss_cls"] + losses["loss_box_reg"]).numpy()
        hard = select_slowly(boxes.double().numpy(), loss, None, 20, 0.7, False, None)
        for name, kept in (("all", range(len(rois))), ("hard", hard)):
            for i in kept:
                expected[name][sum(ious[i] >= x for x in (0.1, 0.4, 0.5, 0.6))] += 1 / len(inputs)
    for name in expected:
        assert counts[name] == pytest.approx(expected[name])


def test_a_run_that_diverges_is_a_result(clutter, monkeypatch, tmp_path):
    diverging = {
        "SOLVER.BASE_LR": 1e30,
        "SOLVER.WARMUP_ITERS": 0,
        "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    }
    result = run_sampling(monkeypatch, tmp_path, diverging)
    assert result["AP"] is None
    assert 0 < result["diverged_at"] < 4


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """
    A laboratory whose runs write their result at once.
    """

    def finish(command, stdout, **_):
        dataset, recipe, seed = command[-3:]
        if recipe == "fails":
            stdout.write("what went wrong\n")
            return subprocess.CompletedProcess(command, 1)
        folder = Path(command[command.index("--output") + 1])
        result = run_line(dataset, recipe, int(seed), 50.0)
        result["options"] = dict(DATASETS[dataset].options)
        (folder / "result.json").write_text(json.dumps(result, indent=2))
        (folder / "model_final.pth").write_text("")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(compare_sampling.subprocess, "run", finish)
    monkeypatch.setitem(RECIPES, "fails", RECIPES["stock"])
    results = tmp_path / "results"
    return compare_sampling.Lab(tmp_path, tmp_path / "w.pth", tmp_path / "output", results, 2)


def test_the_lab_makes_what_is_missing(lab, monkeypatch):
    runs = [Run("clutter", "stock", x) for x in (1, 2, 3)]
    lab.make(runs[:2])
    assert lab.missing(runs) == runs[2:]
    lab.make(runs[2:])
    assert lab.missing(runs) == []
    lines = (lab.results / "sampling_clutter.jsonl").read_text().splitlines()
    assert sorted(json.loads(x)["seed"] for x in lines) == [1, 2, 3]
    # Checkpoints of dozens of runs would fill the disk.
    assert not list(lab.output.rglob("*.pth"))
    # A table must not mix what was made with one set of options and with another.
    monkeypatch.setitem(RECIPES, "stock", Recipe("Stock", {"SEED": 7}))
    with pytest.raises(ResultError, match="line 1 .* delete the line"):
        lab.missing(runs)


def test_a_run_that_fails_stops_the_lab_and_leaves_the_others(lab):
    runs = [Run("clutter", "stock", 1), Run("clutter", "fails", 1), Run("clutter", "stock", 2)]
    with pytest.raises(compare_sampling.LabError, match="what went wrong") as error:
        lab.make(runs)
    assert "console.txt" in str(error.value)
    assert runs[0] not in lab.missing(runs)
    assert runs[1] in lab.missing(runs)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--data", ".", "--classifier", "x", "mian"],
            "There is no experiment mian. There are: .*main",
        ),
        (["--data", "nowhere", "--classifier", "x", "main"], "needs nowhere/.* in the layout of P"),
    ],
)
def test_bad_input(arguments, message, monkeypatch, tmp_path):
    arguments += ["--results", str(tmp_path), "--output", str(tmp_path / "output")]
    monkeypatch.setattr(sys, "argv", ["compare_sampling.py", *arguments])
    with pytest.raises(compare_sampling.LabError, match=message):
        compare_sampling.main()
    assert not (tmp_path / "output").exists()


def test_a_classifier_that_is_not_there(tmp_path):
    with pytest.raises(compare_sampling.LabError, match=r"no.pth is not a file"):
        compare_sampling.convert_classifier(tmp_path / "no.pth", tmp_path / "backbone.pth")


@torch.no_grad()
def test_scaled_biases_scale_the_features():
    """
    Those of torchvision's own forward, on images that are not divided.
    """
    seed_all_rng(0)
    classifier = torchvision.models.squeezenet1_0()
    for name, value in classifier.named_parameters():
        if name.endswith("bias"):  # torchvision's are 0
            value.normal_(std=30)
    images = 100 * torch.randn(2, 3, 64, 96)
    expected = classifier.features(images)
    compare_sampling.scale_biases(classifier.state_dict(), 57.0)
    assert torch.allclose(57 * classifier.features(images / 57), expected, rtol=1e-3, atol=1e-2)
    assert expected.std() > 10
