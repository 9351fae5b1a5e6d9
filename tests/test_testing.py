import json
import math
import time

import pytest
import torch
from conftest import load_config, use_clutter
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn

from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.evaluation import (
    Evaluation,
    TimedModel,
    describe_test,
    evaluate_model,
    testing,
    write_evaluations,
)
from ohem_d2.modeling.test_time.options import with_test_time_options

pytestmark = pytest.mark.slow

OPTIONS = [
    *("MODEL.DEVICE", "cpu", "MODEL.ROI_BOX_HEAD.FC_DIM", "16", "INPUT.MIN_SIZE_TEST", "64"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.RPN.POST_NMS_TOPK_TEST", "20"),
    *("TEST.AUG.MIN_SIZES", "(64, 80)", "TEST.ITERATIVE_BBOX.SCORE_THRESH", "0.1"),
]
ON = ["TEST.AUG.ENABLED", "True", "TEST.ITERATIVE_BBOX.ENABLED", "True"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    generate_clutter(str(root), 0, {"train": 1, "test": 5})
    return root


def evaluate(root, output, *options):
    """
    Returns:
        list[str]: what evaluate_model() returns, for the plain model and then, if options are
        enabled, with them. As text, in which NaN equals NaN.
    """
    use_clutter(root)
    cfg = load_config("demo/faster_rcnn_R_18.yaml", *OPTIONS, *options)
    cfg.OUTPUT_DIR = str(output)
    torch.manual_seed(0)
    model = build_model(cfg)
    tests = [with_test_time_options(cfg, False, False), *([cfg] if options else [])]
    return [json.dumps(evaluate_model(x, model)) for x in tests]


def test_plain_and_augmented(root, tmp_path):
    datasets = ["clutter_voc_test", "clutter_coco_test"]
    (alone,) = evaluate(root, tmp_path / "plain")
    plain, augmented = evaluate(root, tmp_path / "both", *ON)
    assert plain == alone
    plain, augmented = json.loads(plain), json.loads(augmented)
    assert {k: list(v) for k, v in plain.items()} == {x: ["bbox"] for x in datasets}
    assert {k: list(v) for k, v in augmented.items()} == {x: ["bbox_TTA"] for x in datasets}
    for x in datasets:
        assert ("AP50-star" if "voc" in x else "AP-star") in plain[x]["bbox"]

    rows = json.loads((tmp_path / "both/results.json").read_text())
    assert [(x["test"], x["dataset"]) for x in rows] == [
        (test, x) for test in ("plain", "2 scales and flip, 2 rounds") for x in datasets
    ]
    assert all(x["seconds_per_image"] > 0 for x in rows)
    # The files of the evaluators
    for folder in ("inference", "inference_TTA"):
        files = {
            str(x.relative_to(tmp_path / "both" / folder))
            for x in (tmp_path / "both" / folder).rglob("*.*")
        }
        assert {
            "clutter_voc_test/comp4_det_test_star.txt",
            "clutter_voc_test/voc_results.json",
            "clutter_coco_test/coco_instances_results.json",
        } < files
        assert not any("unfinished" in x for x in files)

    file = "clutter_coco_test/coco_instances_results.json"
    plain_file, augmented_file = (
        tmp_path / "both" / folder / file for folder in ("inference", "inference_TTA")
    )
    assert plain_file.read_bytes() == (tmp_path / "plain/inference" / file).read_bytes()
    assert plain_file.read_bytes() != augmented_file.read_bytes()

    # Once more: the rows replace those of the same tests.
    evaluate(root, tmp_path / "both", *ON)
    again = json.loads((tmp_path / "both/results.json").read_text())
    assert [x["test"] for x in again] == [x["test"] for x in rows]
    evaluate(root, tmp_path / "both")
    assert len(json.loads((tmp_path / "both/results.json").read_text())) == 2


def test_a_run_that_fails_leaves_the_earlier_results(root, tmp_path, monkeypatch):
    evaluate(root, tmp_path)
    files = {x: x.read_bytes() for x in tmp_path.rglob("*.*")}

    def fail(model, loader, evaluator):
        evaluator.reset()
        evaluator.evaluate()  # writes that there are no detections
        raise KeyboardInterrupt

    monkeypatch.setattr(testing, "inference_on_dataset", fail)
    with pytest.raises(KeyboardInterrupt):
        evaluate(root, tmp_path)
    assert {x: x.read_bytes() for x in tmp_path.rglob("*.*")} == files


def evaluate_in_a_process(rank, root, output):
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(2)
    return evaluate(root, output, *ON)


def test_two_processes_are_one(root, tmp_path, run_in_two_processes):
    results = run_in_two_processes(evaluate_in_a_process, root, tmp_path / "two")
    assert results[0] == evaluate(root, tmp_path / "one", *ON)
    assert [list(json.loads(x).values()) for x in results[1]] == [[{}, {}]] * 2


class Sleeper(nn.Module):
    def forward(self, batched_inputs):
        time.sleep(0.2 if batched_inputs[0] < 5 else 0.02)
        return [{}] * len(batched_inputs)


def test_time():
    timed = TimedModel(Sleeper())
    assert math.isnan(timed.seconds_per_image())
    timed([0])
    assert timed.seconds_per_image() == pytest.approx(0.2, rel=0.3)
    for i in range(1, 10):
        assert timed([i, i]) == [{}, {}]
    # Of two images, and without the first five calls.
    assert timed.seconds[4] > 0.1 > timed.seconds[5]
    assert timed.seconds_per_image() < 0.05


@pytest.mark.parametrize(
    "options, description",
    [
        ([], "plain"),
        (["TEST.AUG.ENABLED", True], "5 scales and flip"),
        (
            ["TEST.AUG.ENABLED", True, "TEST.AUG.FLIP", False, "TEST.AUG.MIN_SIZES", (160,)],
            "1 scale",
        ),
        (
            ["TEST.ITERATIVE_BBOX.ENABLED", True, "TEST.BOX_VOTING.ENABLED", True],
            "2 rounds, voting",
        ),
    ],
)
def test_description(options, description):
    assert describe_test(load_config("demo/faster_rcnn_R_18.yaml", *options)) == description


def test_table(tmp_path):
    evaluations = [
        Evaluation("plain", "a", {"bbox": {"AP": 10.04, "AP50": 20.0, "AP75": math.nan}}, 0.5),
        Evaluation("voting", "a", {"bbox": {"AP": 11.0, "AP50": 21.0, "AP75": None}}, 0.25),
    ]
    table = write_evaluations(evaluations, str(tmp_path / "new"))
    assert (tmp_path / "new/results.md").read_text() == table + "\n"
    rows = [[x.strip() for x in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[0] == ["dataset", "task", "test", "AP", "AP50", "AP75", "s / image"]
    assert rows[2:] == [
        ["a", "bbox", "plain", "10.0", "20.0", "nan", "0.500"],
        ["a", "bbox", "voting", "11.0", "21.0", "nan", "0.250"],
    ]
    written = json.loads((tmp_path / "new/results.json").read_text())
    assert written[0] == {
        "test": "plain",
        "dataset": "a",
        "results": {"bbox": {"AP": 10.04, "AP50": 20.0, "AP75": None}},
        "seconds_per_image": 0.5,
    }
