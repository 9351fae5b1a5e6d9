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
    to_results,
    write_evaluations,
)

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
    use_clutter(root)
    cfg = load_config("demo/faster_rcnn_R_18.yaml", *OPTIONS, *options)
    torch.manual_seed(0)
    return evaluate_model(cfg, build_model(cfg), str(output))


def metrics(evaluations):
    """
    Without the time, and as text, in which NaN is equal to NaN.
    """
    return [(x.test, x.dataset, json.dumps(x.results)) for x in evaluations]


def test_plain_and_augmented(root, tmp_path):
    plain = evaluate(root, tmp_path / "plain")
    both = evaluate(root, tmp_path / "both", *ON)
    datasets = ["clutter_voc_test", "clutter_coco_test"]
    assert [(x.test, x.dataset) for x in plain] == [("plain", x) for x in datasets]
    assert [(x.test, x.dataset) for x in both] == [
        (test, x) for x in datasets for test in ("plain", "2 scales and flip, 2 rounds")
    ]
    assert metrics(both)[::2] == metrics(plain)
    assert metrics(both)[1::2] != metrics(plain)
    for x in both:
        assert x.seconds_per_image > 0
        assert ("AP50-star" if "voc" in x.dataset else "AP-star") in x.results["bbox"]
    # What the evaluators have written.
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


def test_results_of_a_run_that_fails_do_not_replace_those_that_are_there(
    root, tmp_path, monkeypatch
):
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
    return metrics(evaluate(root, output, *ON))


def test_two_processes_are_one(root, tmp_path, run_in_two_processes):
    results = run_in_two_processes(evaluate_in_a_process, root, tmp_path / "two")
    assert results[0] == metrics(evaluate(root, tmp_path / "one", *ON))
    assert all(json.loads(x[2]) == {} for x in results[1])


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


def test_results_and_table(tmp_path):
    evaluations = [
        Evaluation("plain", "a", {"bbox": {"AP": 10.04, "AP50": 20.0, "AP75": math.nan}}, 0.5),
        Evaluation("voting", "a", {"bbox": {"AP": 11.0, "AP50": 21.0, "AP75": 5.0}}, 0.25),
    ]
    assert list(to_results(evaluations)) == ["bbox", "bbox_TTA"]
    assert to_results(evaluations)["bbox_TTA"]["AP50"] == 21.0
    two = to_results([*evaluations, evaluations[0]._replace(dataset="b")])
    assert {k: list(v) for k, v in two.items()} == {"a": ["bbox", "bbox_TTA"], "b": ["bbox"]}
    assert to_results([]) == {}

    table = write_evaluations(evaluations, str(tmp_path / "new"))
    assert (tmp_path / "new/results.md").read_text() == table + "\n"
    rows = [[x.strip() for x in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[0] == ["dataset", "task", "test", "AP", "AP50", "AP75", "s / image"]
    assert rows[2:] == [
        ["a", "bbox", "plain", "10.0", "20.0", "nan", "0.500"],
        ["a", "bbox", "voting", "11.0", "21.0", "5.0", "0.250"],
    ]
    written = json.loads((tmp_path / "new/results.json").read_text())
    assert written[0] == {
        "test": "plain",
        "dataset": "a",
        "results": {"bbox": {"AP": 10.04, "AP50": 20.0, "AP75": None}},
        "seconds_per_image": 0.5,
    }
