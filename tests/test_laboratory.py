"""
The laboratories: what they compare is comparable, they run, and go on where they were stopped.
"""

import argparse
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from conftest import build_heads, flat, heads_config, make_inputs, make_voc, train_step
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from laboratory_runs import laboratories, line_of
from torch.testing import assert_close

from benchmarks import provenance
from benchmarks.laboratory import (
    compare,
    errors,
    frozen_stages,
    heads,
    prepare,
    run,
    step_ratios,
    times,
)
from benchmarks.laboratory.datasets import register
from benchmarks.laboratory.experiments import (
    CONFIGS,
    Experiment,
    Run,
    Variant,
    experiments,
    options_of,
)
from benchmarks.laboratory.laboratories import DATASETS, LABORATORIES, without_some_boxes
from benchmarks.laboratory.recipes import RECIPES, Recipe
from benchmarks.laboratory.results import read_runs, results_file
from ohem_d2.data import build_train_loader
from ohem_d2.data.proposal_file import read_proposals
from ohem_d2.engine import check_inputs, load_config
from ohem_d2.evaluation.detection_files import comp4_file
from ohem_d2.modeling.backbone import build_torchvision_fpn_backbone
from ohem_d2.utils import InputError

SHARED = Path(__file__).parent.parent.parent / "shared/data"
needs_photographs = pytest.mark.skipif(
    not (SHARED / "cards").exists(), reason="needs photographs and weights in ../shared/data"
)


@pytest.fixture
def ratios(monkeypatch):
    """
    A step takes 1.25 times as long for each recipe with 64 RoIs, and .8 times with others.
    """

    def step_ratio(laboratory, dataset, recipe, rois):
        return 1.25 if rois == 64 else 0.8

    monkeypatch.setattr("benchmarks.laboratory.experiments.step_ratio", step_ratio)


def config(made):
    options = {"MODEL.DEVICE": "cpu", "SEED": 3, **options_of(made)}
    return load_config(str(CONFIGS / LABORATORIES[made.laboratory].config), run.to_opts(options))


@laboratories
def test_experiments_name_what_there_is(laboratory, ratios):
    for experiment in experiments(laboratory).values():
        assert set(experiment.datasets) <= set(DATASETS)
        for made in experiment.runs():
            assert config(made).MODEL.ROI_HEADS.NAME in ROI_HEADS_REGISTRY


@laboratories
def test_times_of_all_experiments_are_recorded(laboratory):
    for experiment in experiments(laboratory).values():
        assert all(made.iterations > 0 for made in experiment.runs())


@laboratories
def test_recipes_begin_with_the_same_weights_and_see_the_same_images(laboratory, voc):
    def initial(recipe):
        cfg = config(Run(laboratory, "cards", recipe, 64, 0.01, 100, 3))
        cfg.DATASETS.TRAIN = (voc,)
        seed_all_rng(cfg.SEED)
        weights = build_model(cfg).state_dict()
        cfg.MODEL.LOAD_PROPOSALS = False  # of the loader alone: there are none
        loader = iter(build_train_loader(cfg))
        return weights, [x["image_id"] for _ in range(4) for x in next(loader)]

    weights, images = initial("random")
    for recipe in (
        "bg_lo",
        "OHEM",
        "background",
        "OHEM, no clipping, growing share",
        "OHEM, smooth L1",
    ):
        if recipe == "bg_lo" and laboratory != "fast":
            continue  # its config has detectron2's own heads
        other, other_images = initial(recipe)
        assert images == other_images
        assert list(weights) == list(other)
        assert all(torch.equal(weights[x], other[x]) for x in weights)


def test_options_of_a_run():
    made = Run("fast", "cards", "OHEM, pool 4", 32, 0.02, 1000, 1)
    assert options_of(made) == {
        "MODEL.OHEM.WARMUP_ITERS": 100,
        "MODEL.ROI_HEADS.NAME": "OHEMROIHeads",
        "MODEL.OHEM.FOREGROUND": "mined",
        "MODEL.OHEM.POOL_SIZE": 128,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
        "SOLVER.BASE_LR": 0.02,
        "SOLVER.MAX_ITER": 1000,
        "SOLVER.STEPS": (750, 930),
    }


def test_equal_time(ratios, monkeypatch):
    monkeypatch.setitem(LABORATORIES, "fpn", LABORATORIES["fpn"]._replace(iterations=1000))
    experiment = Experiment("fpn", ("cards",), (), (1,))

    def iterations(*variant):
        return experiment.run("cards", Variant(*variant), 1).iterations

    assert iterations("OHEM", 64, 0.01, "time") == 800  # 1000 / 1.25
    assert iterations("OHEM", 96, 0.01, "time") == 1250
    assert iterations("OHEM", 64, 0.01) == 1000
    assert iterations("OHEM", 64, 0.01, "time", 0.33) == 260  # 264, in tens


def test_a_time_that_was_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(step_ratios, "RESULTS", tmp_path)
    provenance_of_all = dict.fromkeys(provenance.PROVENANCE, "abc")
    lines = [
        {"laboratory": "fpn", "dataset": dataset, "recipe": recipe, "rois": rois, "ratio": ratio}
        for dataset, recipe, rois, ratio in (
            ("cards", "random", 32, 0.5),  # what the others are divided by
            ("cards", "OHEM", 64, 1.1),
            ("all", "random", 32, 0.8),
            ("all", "OHEM", 64, 1.2),
            ("bccd", "OHEM", 64, 1.3),  # without random sampling
        )
    ]
    text = "".join(json.dumps({**x, **provenance_of_all}) + "\n" for x in lines)
    (tmp_path / step_ratios.TIMES).write_text(text)
    assert step_ratios.step_ratio("fpn", "cards", "OHEM", 64) == pytest.approx(2.2)
    assert step_ratios.step_ratio("fpn", "pests", "OHEM", 64) == pytest.approx(1.5)
    assert step_ratios.step_ratio("fpn", "bccd", "OHEM", 64) == pytest.approx(1.5)
    with pytest.raises(InputError, match="of OHEM with 128 RoIs on cards, .* 32. Run .*times fpn"):
        step_ratios.step_ratio("fpn", "cards", "OHEM", 128)


@pytest.fixture
def measured_times(monkeypatch, tmp_path):
    """
    Returns:
        a function that measures: a step takes .3 seconds with the 64 RoIs of the reference, and .6
        with others.
    """

    def measure_steps(materials, dataset, recipes, rounds):
        return [[0.3 if rois == 64 else 0.6] * 4 for _, rois in recipes]

    monkeypatch.setattr(times, "RESULTS", tmp_path)
    monkeypatch.setattr(times, "require_clean_commit", lambda: None)
    monkeypatch.setattr(times, "prepare", lambda *_: SimpleNamespace(has_proposals=True))
    monkeypatch.setattr(times, "measure_steps", measure_steps)
    file = tmp_path / step_ratios.TIMES

    def measure(before, *arguments):
        names = ("laboratory", "dataset", "recipe", "rois", "ratio")
        lines = [json.dumps(dict(zip(names, x, strict=True))) + "\n" for x in before]
        file.write_text("".join(lines))
        times.main(["fast", "--data", ".", "--classifier", ".", *arguments])
        after = map(json.loads, file.read_text().splitlines())
        return [tuple(x[name] for name in names) for x in after]

    return measure


def test_measured_times_replace_those_of_the_same_datasets(measured_times):
    others = [("fast", "cards", "OHEM", 64, 9.0), ("fpn", "bccd", "OHEM", 64, 9.0)]
    before = [*others, ("fast", "bccd", "OHEM", 64, 9.0), ("fast", "bccd", "bg_lo", 64, 9.0)]
    lines = measured_times(before, "--datasets", "bccd")
    assert lines[:2] == others
    assert {x[:2] for x in lines[2:]} == {("fast", "bccd")}
    assert {x[2] for x in lines[2:]} == {"random", "OHEM", "background"}
    assert {x[3]: x[4] for x in lines[2:]} == {32: 2.0, 64: 1.0, 128: 2.0}


def test_times_of_chosen_recipes_are_measured_beside_the_recorded_ones(measured_times):
    before = [
        # Relative to random sampling with 128 RoIs, of which a step takes twice as long.
        ("fast", "bccd", "random", 64, 0.5),
        ("fast", "bccd", "random", 128, 1.0),
        ("fast", "bccd", "bg_lo", 128, 9.0),
    ]
    chosen = ["--datasets", "bccd", "--recipes", "bg_lo", "--rois", "64", "128"]
    lines = measured_times(before, *chosen)
    assert sorted(lines) == [
        ("fast", "bccd", "bg_lo", 64, 0.5),
        ("fast", "bccd", "bg_lo", 128, 1.0),
        *before[:2],
    ]


def test_times_need_the_reference_of_all_datasets_before_the_first_is_measured(
    measured_times, capsys
):
    chosen = ["--datasets", "cards", "bccd", "--recipes", "bg_lo"]
    with pytest.raises(InputError, match="no time of random with 64 RoIs on bccd yet"):
        measured_times([("fast", "cards", "random", 64, 0.5)], *chosen)
    assert not capsys.readouterr().out  # no time


def test_missing_boxes(monkeypatch, tmp_path):
    objects = {f"image{i}": [("cat", (10, 10, 30, 30), 0)] * 10 for i in range(20)}
    make_voc(tmp_path / "photos", "unused", objects)
    sets = tmp_path / "photos/ImageSets/Main"
    (sets / "val.txt").write_text((sets / "train.txt").read_text())
    whole = DATASETS["cards"]._replace(folder="photos", class_names=("cat",))
    monkeypatch.setitem(DATASETS, "cards", whole)
    name = without_some_boxes("cards")
    monkeypatch.setitem(DATASETS, name, whole._replace(missing=0.3))
    registered = ["unused"]

    def count(dataset):
        names = register(dataset, tmp_path, ("train", "val"))
        registered.extend(names)
        counts = [[len(x["annotations"]) for x in DatasetCatalog.get(y)] for y in names]
        again = [len(x["annotations"]) for x in DatasetCatalog.get(names[0])]
        assert again == counts[0]  # the same boxes each time
        return map(sum, counts)

    try:
        assert list(count("cards")) == [200, 200]
        train, val = count(name)
        # Binomial: 140 are left in the mean, with a deviation of 6.5.
        assert val == 200 and abs(train - 140) < 26
        # A training accepts them, although its XML files have all boxes.
        weights = tmp_path / "backbone.pth"
        weights.touch()
        materials = prepare.Materials("fpn", tmp_path, "train", "val", weights, tmp_path)
        cfg = load_config(materials.config, run.to_opts(materials.options(name)))
        cfg.MODEL.DEVICE = "cpu"
        check_inputs(cfg)
    finally:
        for x in registered:
            DatasetCatalog.remove(x)
            MetadataCatalog.remove(x)


def test_proposals_are_computed_once(monkeypatch, tmp_path):
    objects = {"image0": [("cat", (10, 10, 30, 30), 0)], "image1": [("cat", (5, 5, 60, 60), 0)]}
    make_voc(tmp_path / "photos", "unused", objects)
    sets = tmp_path / "photos/ImageSets/Main"
    (sets / "val.txt").write_text((sets / "train.txt").read_text())
    small = DATASETS["cards"]._replace(folder="photos", class_names=("cat",))
    monkeypatch.setitem(DATASETS, "cards", small)
    materials = prepare.Materials(
        "fast", tmp_path, "train", "val", tmp_path / "backbone.pth", tmp_path / "proposals"
    )
    try:
        materials.make_proposals("cards", 0)
        files = [tmp_path / f"proposals/photos_{x}.pkl" for x in ("train", "val")]
        written = [x.stat().st_mtime_ns for x in files]
        assert [len(read_proposals(str(x))["ids"]) for x in files] == [2, 2]
        materials.make_proposals("cards", 0)
        assert [x.stat().st_mtime_ns for x in files] == written
        options = materials.options("cards")
        assert options["DATASETS.PROPOSAL_FILES_TEST"] == (str(files[1]),)
        assert options["MODEL.ROI_HEADS.NUM_CLASSES"] == 1
    finally:
        for x in ("cards_train", "cards_val", "unused"):
            DatasetCatalog.remove(x)
            MetadataCatalog.remove(x)


def test_ranking_by_smooth_l1():
    """
    Training has the L1 loss. Where the ranking has smooth L1 of beta 1, a RoI's box loss is the sum
    over its four deltas of d^2 / 2 if |d| < 1, and |d| - 1/2 otherwise.
    """
    own = build_heads(heads_config(MODEL__ROI_HEADS__NAME="OHEMROIHeads"))
    other = build_heads(heads_config(MODEL__ROI_HEADS__NAME="SmoothL1RankingROIHeads"))
    features, proposals, targets = make_inputs()
    rois = own.label_proposals(proposals, targets)
    with torch.no_grad():
        l1, smooth = (x.compute_roi_losses(features, rois) for x in (own, other))
    assert other.box_predictor.smooth_l1_beta == own.box_predictor.smooth_l1_beta == 0.0
    for x, y in zip(l1, smooth, strict=True):
        assert torch.equal(x.loss_cls, y.loss_cls)
        is_fg = x.gt_classes < own.num_classes
        assert (y.loss_box_reg[~is_fg] == 0).all()
        # |d| - 1/2 <= smooth <= |d|, for each of the four, and less than |d| unless it is 0.
        low, high = (x.loss_box_reg - 2)[is_fg], x.loss_box_reg[is_fg]
        assert ((y.loss_box_reg[is_fg] >= low - 1e-5) & (y.loss_box_reg[is_fg] < high)).all()
    assert any((x.gt_classes < own.num_classes).any() for x in l1)


@pytest.mark.parametrize("iteration, num_hard", [(0, 0), (50, 4), (200, 16), (1000, 16)])
def test_a_share_that_grows(iteration, num_hard):
    built = build_heads(
        heads_config(
            MODEL__ROI_HEADS__NAME="GrowingOHEMROIHeads", MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE=16
        )
    )
    features, proposals, targets = make_inputs()
    rois = built.label_proposals(proposals, targets)
    with EventStorage(iteration):
        _, pool, kept = built.mine_hard_rois(features, rois)
        hard = super(heads.GrowingOHEMROIHeads, built).select_hard_rois(pool)
    for x, y in zip(kept, hard, strict=True):
        assert len(x) == 16
        assert torch.equal(x.proposal_boxes.tensor[:num_hard], y.proposal_boxes.tensor[:num_hard])
        if num_hard == 0:  # a random sample is not the hardest
            assert not torch.equal(x.proposal_boxes.tensor, y.proposal_boxes.tensor)


def test_a_training_step_with_each_of_the_heads():
    for name in heads.__all__:
        built = build_heads(heads_config(MODEL__ROI_HEADS__NAME=name))
        _, losses, _ = train_step(built, *make_inputs())
        assert all(torch.isfinite(x) for x in losses.values())


@pytest.fixture
def make_lab(monkeypatch, tmp_path, ratios):
    """
    A laboratory whose runs write their result at once, started with the arguments of its command.
    """

    def finish(command, stdout, **_):
        made = Run(*json.loads(command[-1]))
        materials = prepare.Materials.from_json(command[command.index("--materials") + 1])
        assert materials.data == tmp_path
        if made.recipe == "OHEM" and made.seed == 3:
            stdout.write("what went wrong\n")
            return subprocess.CompletedProcess(command, 1)
        folder = Path(command[command.index("--output") + 1])
        (folder / "result.json").write_text(json.dumps(line_of(made, 40.0), indent=2))
        (folder / "model_final.pth").write_text("")
        return subprocess.CompletedProcess(command, 0)

    def make_lab(*arguments):
        output = ["--output", str(tmp_path / "output"), "--data", str(tmp_path)]
        compare.main(["fpn", *output, "--classifier", str(classifier), *arguments])

    classifier = tmp_path / "classifier.pth"
    classifier.touch()
    folder = tmp_path / "cards/ImageSets/Main"
    folder.mkdir(parents=True)
    for split in ("train", "val", "test"):
        (folder / f"{split}.txt").touch()
    monkeypatch.setattr(compare, "require_clean_commit", lambda: None)
    monkeypatch.setattr(compare.subprocess, "run", finish)
    monkeypatch.setattr(prepare, "convert_classifier", lambda *_: None)
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "results")
    return make_lab


def test_the_lab_makes_what_is_missing(make_lab, monkeypatch, tmp_path, capsys):
    cards = ("--datasets", "cards", "--jobs", "2")
    make_lab(*cards, "--seeds", "1", "--experiments", "main")
    capsys.readouterr()
    make_lab(*cards, "--seeds", "1", "2", "--experiments", "main")
    # Three recipes.
    assert "6 runs, 3 of them recorded." in capsys.readouterr().out
    make_lab(*cards, "--seeds", "2", "--recipes", "OHEM", "random", "--experiments", "main")
    assert "2 runs, 2 of them recorded." in capsys.readouterr().out
    runs = read_runs(tmp_path / "results", "fpn")
    assert sorted(set(runs["seed"])) == [1, 2] and len(runs) == 6
    # Checkpoints of dozens of runs would fill the disk.
    assert not list((tmp_path / "output").rglob("*.pth"))
    # The last word, on images that decided nothing, is recorded apart.
    make_lab(*cards, "--seeds", "1", "--test-split", "test", "--experiments", "main")
    assert len(read_runs(tmp_path / "results", "fpn", "test")) == 3
    assert len(read_runs(tmp_path / "results", "fpn")) == 6
    # A table must not mix runs made with different options.
    monkeypatch.setitem(RECIPES, "random", Recipe("Random", {"SEED": 7}))
    with pytest.raises(InputError, match=r"line \d .* Delete the line"):
        make_lab(*cards, "--experiments", "main")


def test_without_names_all_experiments_run(make_lab, capsys):
    make_lab("--datasets", "cards", "--seeds", "1", "--recipes", "OHEM, pool 1", "OHEM, GIoU")
    # Of "OHEM in a pool" and of "ranking".
    assert "2 runs, 0 of them recorded." in capsys.readouterr().out


def test_a_run_that_fails_stops_the_lab_and_leaves_the_others(make_lab, tmp_path):
    with pytest.raises(InputError, match="what went wrong") as error:
        make_lab("--datasets", "cards", "--seeds", "3", "--experiments", "main")
    assert "console.txt" in str(error.value)
    recipes = set(read_runs(tmp_path / "results", "fpn")["recipe"])
    assert "random" in recipes and "OHEM" not in recipes


def test_a_trial_is_kept_apart(make_lab, tmp_path):
    make_lab("--trial", "--datasets", "cards", "--seeds", "1", "--experiments", "main")
    assert not (tmp_path / "results").exists()
    assert (tmp_path / "output/fpn/trial_results/laboratory_fpn_val.jsonl").is_file()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--experiments", "mian"], "There is no experiment mian. There are: .*main"),
        (["--datasets", "pcb", "--experiments", "main"], "pcb needs .*pcb in the layout of PASCAL"),
        (
            ["--datasets", "cards", "--test-split", "last", "--experiments", "main"],
            "with the image set last",
        ),
    ],
)
def test_bad_input(arguments, message, make_lab):
    with pytest.raises(InputError, match=message):
        make_lab(*arguments)


def prepared(laboratory, classifier, folder):
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    options = ["--data", str(SHARED), "--classifier", str(classifier), "--output", str(folder)]
    return prepare.prepare(parser.parse_args([laboratory, *options]), [])


@laboratories
def test_a_classifier_that_is_not_there(laboratory, tmp_path):
    with pytest.raises(InputError, match=r"no.pth is not a file"):
        prepared(laboratory, tmp_path / "no.pth", tmp_path)


def test_r50_is_detectron2s_config_at_half_the_width():
    ours = dict(flat(load_config(str(CONFIGS / LABORATORIES["r50"].config))))
    zoos = dict(flat(load_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")))
    assert {k: x for k, x in ours.items() if x != zoos[k]} == {
        # Half of 256 and of 64.
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 128,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 32,
        "MODEL.PIXEL_MEAN": [104.0, 117.0, 123.0],
        "INPUT.MIN_SIZE_TRAIN": (224,),
        "INPUT.MIN_SIZE_TEST": 224,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.BASE_LR": 0.0025,  # .02 * 2 / 16
        "SOLVER.WARMUP_ITERS": 100,
        "DATALOADER.NUM_WORKERS": 0,
        # Each run sets them.
        **{"MODEL.WEIGHTS": "", "DATASETS.TRAIN": (), "DATASETS.TEST": ()},
        **{"SOLVER.MAX_ITER": 40000, "SOLVER.STEPS": (30000,)},
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 0,  # there are no masks
    }


@pytest.fixture
def run_on_photographs(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "NUM_IMAGES", 3)

    def make(made, classifier):
        materials = prepared(made.laboratory, SHARED / "weights" / classifier, tmp_path)
        output = tmp_path / "run"
        arguments = ["--trial", "--materials", materials.to_json(), "--output", str(output)]
        monkeypatch.setattr("sys.argv", ["run.py", *arguments, json.dumps(made)])
        run.main()
        return json.loads((output / "result.json").read_text())

    return make


@needs_photographs
@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["cards", without_some_boxes("cards")])
def test_a_run_on_photographs(dataset, run_on_photographs, tmp_path):
    made = Run("fpn", dataset, "OHEM, no clipping, no warm-up", 32, 0.001, 20, 2)
    result = run_on_photographs(made, "mobilenet_v2_features.pth")
    assert Run(*(result[x] for x in Run._fields)) == made
    assert result["options"]["MODEL.OHEM.WARMUP_ITERS"] == 0
    assert 0 <= result["AP"] <= result["AP50"] <= 100
    assert result["diverged_at"] is None
    for losses in (result["mean_roi_loss"], result["mean_test_roi_loss"]):
        assert [iteration for iteration, _ in losses] == [5, 10, 15, 20]
        assert all(loss > 0 for _, loss in losses)
    assert result["mean_roi_loss"] != result["mean_test_roi_loss"]
    assert set(result["errors"]) == set(errors.RECALLS)
    assert 0 < result["foreground_share"] < 0.5 and 100 < result["num_rois"] < 600
    assert any((tmp_path / "fpn/frozen_stages").iterdir())
    assert {"commit", "machine", "torch", "detectron2", "date"} <= set(result)


@needs_photographs
@pytest.mark.slow
def test_a_run_of_detectron2s_own_backbone(run_on_photographs, tmp_path):
    made = Run("r50", "pests", "background, pool 4", 128, 0.0025, 10, 2)
    weights = "thin_resnet50_opennsfw_d2.pth"
    result = run_on_photographs(made, weights)
    assert result["options"]["MODEL.OHEM.WARMUP_ITERS"] == 150
    assert result["AP"] >= 0 and result["diverged_at"] is None
    # The weights were found: those of a frozen stage are still the file's.
    trained = torch.load(tmp_path / "run/model_final.pth", weights_only=True)["model"]
    given = torch.load(SHARED / "weights" / weights, weights_only=True)["model"]
    name = "res2.0.conv1.weight"
    assert torch.equal(trained[f"backbone.bottom_up.{name}"], given[name])


@needs_photographs
@pytest.mark.slow
def test_a_run_that_diverges_is_a_result(run_on_photographs):
    made = Run("fpn", "cards", "random, no clipping", 32, 1e30, 20, 2)
    result = run_on_photographs(made, "mobilenet_v2_features.pth")
    assert result["AP"] is None and result["errors"] is None
    assert 0 < result["diverged_at"] < 20


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
    prepare.scale_biases(classifier.state_dict(), 57.0)
    assert torch.allclose(57 * classifier.features(images / 57), expected, rtol=1e-3, atol=1e-2)
    assert expected.std() > 10


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"dataset": "cows"}, "line 1: dataset 'cows' is unknown. There are: cards"),
        ({"recipe": "half"}, "line 1: recipe 'half' is unknown. There are: random"),
        ({"options": {}}, "line 1 was recorded with the options {}.* Delete the line"),
        ({"config": "old"}, "line 1 was recorded with another configs/benchmarks/.*Delete"),
        ({"diverged_at": 3}, "line 1 has no AP, and did not diverge, or has both"),
    ],
)
def test_lines_that_are_refused(tmp_path, fields, message):
    line = {**line_of(Run("fpn", "cards", "random", 32, 0.005, 100, 1), 40.0), **fields}
    results_file(tmp_path, "fpn", "val").write_text(json.dumps(line))
    with pytest.raises(InputError, match=f"laboratory_fpn_val.jsonl, {message}"):
        read_runs(tmp_path, "fpn")


def test_errors_at_recalls_by_hand(voc, tmp_path):
    # Three objects that are not difficult: dogs in the images "both" and "easy_alone", a cat.
    lines = {
        "cat": ["without_the_flag .6 11 11 40 30"],
        "dog": [
            "both .9 11 11 40 30",
            "both .8 11 11 40 28",  # a duplicate
            "without_the_flag .7 11 11 40 30",  # a cat
            "without_the_flag .5 71 51 90 70",  # background
        ],
        "cow": ["both .95 61 41 90 70"],  # of the difficult one: it does not count
    }
    for name, of_class in lines.items():
        file = comp4_file(tmp_path, MetadataCatalog.get(voc).split, name)
        file.write_text("".join(f"{x}\n" for x in of_class))
    none = dict.fromkeys(("background", "localization", "class", "duplicate"), 0)
    found = errors.errors_at_recalls(voc, tmp_path)
    one, two = none, {**none, "class": 1, "duplicate": 1}
    assert found == {
        **{"0.1": one, "0.2": one, "0.3": one},
        **{"0.4": two, "0.5": two, "0.6": two},
        **{"0.7": None, "0.8": None, "0.9": None},  # the third is not found
    }


@pytest.mark.parametrize("laboratory", [k for k, x in LABORATORIES.items() if x.classifier])
def test_frozen_stages_are_remembered(laboratory, tmp_path, monkeypatch):
    cfg = load_config(str(CONFIGS / LABORATORIES[laboratory].config))
    cfg.MODEL.WEIGHTS = str(tmp_path / "backbone.pth")
    image = ShapeSpec(channels=3)
    # In double precision, because the rounding of a batch is another than of its images.
    backbone = build_torchvision_fpn_backbone(cfg, image).double()
    remembering = frozen_stages.build_remembering_backbone(cfg, image).double()
    remembering.load_state_dict(backbone.state_dict())  # the same names
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double()
    folder = tmp_path / "frozen_stages"

    def check(images, num_files):
        """
        Features, and gradients of what is trained, are those of the backbone.
        """
        for x in (backbone, remembering):
            x.zero_grad()
        features, expected = remembering(images), backbone(images)
        for level, x in expected.items():
            assert_close(features[level], x)
        for x in (features, expected):
            sum(y.square().sum() for y in x.values()).backward()
        for (name, p), q in zip(backbone.named_parameters(), remembering.parameters(), strict=True):
            assert p.requires_grad == q.requires_grad
            if p.requires_grad:
                assert_close(q.grad, p.grad, msg=lambda text, name=name: f"{name}: {text}")
        assert len(list(folder.glob("*/*.npy"))) == num_files

    check(images, 2)
    check(images.flip(0), 2)
    saved = []
    monkeypatch.setattr(frozen_stages.np, "save", lambda *args: saved.append(args))
    remembering(images)
    assert not saved  # nothing is computed again
    monkeypatch.undo()
    check(images.flip(3), 4)
    with torch.no_grad():
        for x in (backbone, remembering):
            next(x.bottom_up.features.parameters()).mul_(2)
    check(images, 6)
