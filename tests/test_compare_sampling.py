"""
The laboratory: what it compares is comparable, it runs, and it goes on where it was stopped.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import use_clutter
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import ROI_HEADS_REGISTRY, build_model
from detectron2.utils.env import seed_all_rng

from benchmarks import provenance
from benchmarks.laboratory.prepare import scale_biases
from benchmarks.sampling import compare, run
from benchmarks.sampling.datasets import register
from benchmarks.sampling.experiments import (
    CONFIGS,
    DATASETS,
    EXPERIMENTS,
    RECIPES,
    Recipe,
    Run,
    config_digest,
    options_of,
)
from benchmarks.sampling.results import read_runs, results_file
from ohem_d2.data import build_train_loader
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.engine import load_config
from ohem_d2.utils import InputError

SMALL = {"SOLVER.MAX_ITER": 4, "SOLVER.STEPS": (), "INPUT.MIN_SIZE_TRAIN": (64,), "VIS_PERIOD": 0}


@pytest.fixture
def clutter(tmp_path, monkeypatch):
    generate_clutter(str(tmp_path), 0, {"train": 6, "test": 2})
    use_clutter(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))


def config(dataset, recipe):
    options = {"MODEL.DEVICE": "cpu", "SEED": 3, **options_of(Run(dataset, recipe, 3))}
    return load_config(str(CONFIGS / DATASETS[dataset].config), run.to_opts(options))


def initial(cfg):
    """
    What default_setup seeds before the Trainer builds its model and its loader.
    """
    seed_all_rng(cfg.SEED)
    weights = build_model(cfg).state_dict()
    loader = iter(build_train_loader(cfg))
    return weights, [x["image_id"] for _ in range(3) for x in next(loader)]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["paper", "background"])
def test_recipes_begin_with_the_same_weights_and_see_the_same_images(recipe, clutter):
    weights, images = initial(config("clutter", "stock"))
    other_weights, other_images = initial(config("clutter", recipe))
    assert images == other_images
    assert list(weights) == list(other_weights)
    assert all(torch.equal(weights[x], other_weights[x]) for x in weights)


def test_experiments_name_what_there_is():
    for experiment in EXPERIMENTS.values():
        for dataset, recipe, _ in experiment.runs():
            assert config(dataset, recipe).MODEL.ROI_HEADS.NAME in ROI_HEADS_REGISTRY


def test_a_class_is_background(voc, monkeypatch, tmp_path):
    dataset = DATASETS["bccd"]._replace(
        folder="voc", class_names=("cat", "cow"), background_classes=("dog",)
    )
    monkeypatch.setitem(DATASETS, "cattle", dataset)
    train, test = register("cattle", tmp_path)
    try:
        found = {
            Path(x["file_name"]).stem: [y["category_id"] for y in x["annotations"]]
            for x in DatasetCatalog.get(train)
        }
        # VOC_IMAGES without its dogs.
        assert found == {
            "both": [1],
            "difficult_alone": [1],
            "easy_alone": [],
            "without_the_flag": [0],
        }
        assert MetadataCatalog.get(test).thing_classes == ["cat", "cow"]
    finally:
        for name in (train, test):
            DatasetCatalog.pop(name)
            MetadataCatalog.pop(name)


def make_run(monkeypatch, tmp_path, recipe):
    """
    The result of one run on the synthetic images, with 4 iterations.
    """
    monkeypatch.setitem(RECIPES, "tried", Recipe("Tried", {**SMALL, **recipe}))
    folder = tmp_path / "run"
    command = ["run.py", "--data", "unused", "--backbone-weights", "unused", "--trial"]
    command += ["--output", str(folder), "clutter", "tried", "2"]
    monkeypatch.setattr(sys, "argv", command)
    run.main()
    return json.loads((folder / "result.json").read_text())


@pytest.mark.slow
def test_a_run(clutter, monkeypatch, tmp_path):
    result = make_run(monkeypatch, tmp_path, {"MODEL.ROI_HEADS.NAME": "OHEMROIHeads"})
    assert (result["dataset"], result["recipe"], result["seed"]) == ("clutter", "tried", 2)
    assert result["options"]["MODEL.ROI_HEADS.NAME"] == "OHEMROIHeads"
    assert result["iterations"] == 4
    assert 0 <= result["AP"] <= result["AP50"] <= 100
    assert result["diverged_at"] is None
    assert [iteration for iteration, _ in result["mean_roi_loss"]] == [1, 2, 3, 4]
    assert all(loss > 0 for _, loss in result["mean_roi_loss"])
    assert 0 < result["foreground_share"] < 0.5
    # Little trained, so losses are close together: half precision still keeps most of the RoIs.
    for half in result["half_precision"].values():
        assert 0.5 < half["shared"] <= 1 and 0.9 < half["loss_ratio"] <= 1.0001
    assert result["curves"]["iteration"] == [3]
    assert len(result["curves"]["num_fg"]) == 1
    assert {"commit", "machine", "torch", "detectron2", "date"} <= set(result)


@pytest.mark.slow
def test_a_run_that_diverges_is_a_result(clutter, monkeypatch, tmp_path):
    diverging = {
        "SOLVER.BASE_LR": 1e30,
        "SOLVER.WARMUP_ITERS": 0,
        "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    }
    result = make_run(monkeypatch, tmp_path, diverging)
    assert result["AP"] is None
    assert 0 < result["diverged_at"] < 4


@pytest.fixture
def clean(monkeypatch):
    monkeypatch.setattr(compare, "require_clean_commit", lambda: None)


@pytest.fixture
def make_lab(monkeypatch, tmp_path, clean):
    """
    A laboratory whose runs write their result at once, started with the arguments of its command.
    """

    def finish(command, stdout, **_):
        made = Run(*command[-3:-1], int(command[-1]))
        if made.recipe == "paper" and made.seed == 3:
            stdout.write("what went wrong\n")
            return subprocess.CompletedProcess(command, 1)
        folder = Path(command[command.index("--output") + 1])
        result = {
            **made._asdict(),
            "options": options_of(made),
            "config": config_digest(DATASETS[made.dataset].config),
            **{"AP": 40.0, "AP50": 70.0, "diverged_at": None},
            **dict.fromkeys(provenance.PROVENANCE, "abc"),
        }
        (folder / "result.json").write_text(json.dumps(result, indent=2))
        (folder / "model_final.pth").write_text("")
        return subprocess.CompletedProcess(command, 0)

    def make_lab(*arguments):
        output = ["--output", str(tmp_path / "output"), "--data", str(tmp_path)]
        compare.main([*output, "--classifier", "unused", *arguments])

    folder = tmp_path / "cards/ImageSets/Main"
    folder.mkdir(parents=True)
    (folder / "train.txt").touch()
    monkeypatch.setattr(compare.subprocess, "run", finish)
    monkeypatch.setattr(compare, "convert_classifier", lambda *_: None)
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "results")
    return make_lab


def test_the_lab_makes_what_is_missing(make_lab, monkeypatch, tmp_path, capsys):
    cards = ("--datasets", "cards", "--jobs", "2")
    make_lab(*cards, "--seeds", "1", "--", "main")
    capsys.readouterr()
    make_lab(*cards, "--seeds", "1", "2", "--", "main")
    assert "8 runs, 4 of them recorded." in capsys.readouterr().out
    runs = read_runs(tmp_path / "results")
    assert sorted(set(runs["seed"])) == [1, 2] and len(runs) == 8
    # Checkpoints of dozens of runs would fill the disk.
    assert not list((tmp_path / "output").rglob("*.pth"))
    # A table must not mix runs made with different options.
    monkeypatch.setitem(RECIPES, "stock", Recipe("Stock", {"SEED": 7}))
    with pytest.raises(InputError, match=r"line \d .* Delete the line"):
        make_lab(*cards, "main")


def test_a_run_that_fails_stops_the_lab_and_leaves_the_others(make_lab, tmp_path):
    with pytest.raises(InputError, match="what went wrong") as error:
        make_lab("--datasets", "cards", "--seeds", "3", "--", "main")
    assert "console.txt" in str(error.value)
    runs = read_runs(tmp_path / "results")
    assert "stock" in set(runs["recipe"]) and "paper" not in set(runs["recipe"])


def test_a_trial_is_kept_apart(make_lab, tmp_path):
    make_lab("--trial", "--datasets", "cards", "--seeds", "1", "--", "longer")
    assert not (tmp_path / "results").exists()
    assert results_file(tmp_path / "output/trial_results", "cards").is_file()


def test_a_changed_work_tree_is_refused(monkeypatch, tmp_path):
    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    with pytest.raises(InputError, match="git cannot tell the commit"):
        provenance.require_clean_commit()
    results = tmp_path / "benchmarks/results/a.jsonl"
    results.parent.mkdir(parents=True)
    for file in (results, tmp_path / "code.py"):
        file.write_text("")
    git("init")
    git("add", ".")
    git("commit", "-m", "all")

    results.write_text("{}\n")  # the runs before this one
    provenance.require_clean_commit()
    assert not provenance.provenance()["commit"].endswith("+")
    (tmp_path / "code.py").write_text("x = 1\n")
    with pytest.raises(InputError, match=r"it has changed in\n.*code.py"):
        provenance.require_clean_commit()
    assert provenance.provenance()["commit"].endswith("+")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", ".", "mian"], "There is no experiment mian. There are: .*main"),
        (["--data", "nowhere", "main"], "needs nowhere/.* in the layout of PASCAL"),
    ],
)
def test_bad_input(arguments, message, clean, monkeypatch, tmp_path):
    monkeypatch.setattr(compare, "RESULTS", tmp_path)
    output = tmp_path / "output"
    with pytest.raises(InputError, match=message):
        compare.main(["--classifier", "x", "--output", str(output), *arguments])
    assert not output.exists()


@torch.no_grad()
def test_scaled_biases_scale_the_features():
    """
    Against torchvision's own forward, on images that are not divided.
    """
    seed_all_rng(0)
    classifier = torchvision.models.squeezenet1_0()
    for name, value in classifier.named_parameters():
        if name.endswith("bias"):  # torchvision's are 0
            value.normal_(std=30)
    images = 100 * torch.randn(2, 3, 64, 96)
    expected = classifier.features(images)
    scale_biases(classifier.state_dict(), 57.0)
    assert torch.allclose(57 * classifier.features(images / 57), expected, rtol=1e-3, atol=1e-2)
    assert expected.std() > 10
