import csv
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load_config, use_clutter
from detectron2.modeling import build_model

from ohem_d2.commands import ablation
from ohem_d2.commands import train as train_net
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.data.proposal_file import make_proposals, write_proposals

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "configs/demo/faster_rcnn_R_18_ohem.yaml")
COUNT = 6  # images of each of the two datasets
NAMES = ["clutter_voc_test", "clutter_coco_test"]
TINY = [
    *("MODEL.DEVICE", "cpu"),
    *("MODEL.RESNETS.DEPTH", "50"),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", "4"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "16"),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "3"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
    *("INPUT.MIN_SIZE_TEST", "96"),
    *("TEST.AUG.MIN_SIZES", "(64,128)"),
    *("TEST.ITERATIVE_BBOX.SCORE_THRESH", "0.1"),
    *("TEST.BOX_VOTING.NMS_THRESH", "0.3"),
]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    generate_clutter(str(root), 0, {"train": 2, "test": COUNT})
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """
    Files of two detectors with random weights.
    """
    root = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("one_scale", "multi_scale")):
        torch.manual_seed(seed)
        model = build_model(load_config("demo/faster_rcnn_R_18_ohem.yaml", *TINY))
        # Far from the tiny initial weights, so that scores differ.
        torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
        torch.save({"model": model.state_dict()}, root / f"{name}.pth")
    return root


@pytest.fixture
def run(datasets, weights, tmp_path, monkeypatch):
    """
    The tool in this process. It returns the number of images that the models were run on, and the
    rows of the csv file.
    """
    use_clutter(datasets)
    for name in ("detectron2", "fvcore", "ohem_d2"):
        # What train_net.py adds would write to where this test's output went, in the next one.
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
    forward = ablation.TimedModel.forward

    def run(*arguments, one_scale=weights / "one_scale.pth", output=tmp_path / "output"):
        computed = []

        def counted(self, inputs):
            computed.append(inputs)
            return forward(self, inputs)

        arguments = ["--weights", one_scale, "--output", output, *arguments]
        if "--config-file" not in arguments:
            arguments = ["--config-file", CONFIG, *arguments]
        with monkeypatch.context() as patch:
            patch.setattr(ablation.TimedModel, "forward", counted)
            patch.setattr(sys, "argv", ["ablation.py", *map(str, arguments)])
            ablation.main()
        with open(output / "ablation.csv", newline="") as file:
            return len(computed), list(csv.DictReader(file))

    return run


def start(datasets, *arguments):
    """
    The tool in another process, which stops after an image of the second row.
    """
    program = """
import sys, time
from ohem_d2.commands import ablation

forward = ablation.ResumedModel.forward

def forward_and_stop(self, inputs):
    outputs = forward(self, inputs)
    if "multi-scale" in self.bar.desc:
        print("stopped", flush=True, file=sys.__stdout__)
        time.sleep(60)
    return outputs

ablation.ResumedModel.forward = forward_and_stop
ablation.main()
"""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)],
        env={
            **os.environ,
            "DETECTRON2_DATASETS": str(datasets),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def evaluate(weights, output, *options):
    """
    By train_net.py: for each dataset the results of the boxes.
    """
    arguments = ["--config-file", CONFIG, "--eval-only", *TINY, *options]
    arguments += ["MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(output)]
    results = train_net.train(train_net.argument_parser().parse_args(arguments))
    task = "bbox_TTA" if options else "bbox"
    return {name: results[name][task] for name in NAMES}


def accuracies(rows):
    return [[row[x] for x in ("dataset", "AP", "AP50", "AP75")] for row in rows]


def read_markdown(file):
    """
    The cells of all rows of all tables, without the headers.
    """
    lines = [x for x in file.read_text().splitlines() if x.startswith("|")]
    cells = [[x.strip() for x in line.strip("|").split("|")] for line in lines]
    return [x for x in cells if x[0] in ("yes", "-")]


def test_the_table_has_what_train_net_evaluates(run, weights, tmp_path, monkeypatch, capsys):
    multi_scale = weights / "multi_scale.pth"
    arguments = ["--multi-scale-weights", multi_scale, *TINY]
    computed, rows = run(*arguments)
    assert computed == 10 * COUNT
    printed = capsys.readouterr().out

    scales = ["TEST.AUG.ENABLED", "True"]
    voting = ["TEST.ITERATIVE_BBOX.ENABLED", "True", "TEST.BOX_VOTING.ENABLED", "True"]
    one_scale = weights / "one_scale.pth"
    tests = {
        ("plain", "", "", ""): (one_scale, []),
        ("multi-scale", "", "yes", ""): (one_scale, scales),
        ("voting", "", "", "yes"): (one_scale, voting),
        ("multi-scale-voting", "", "yes", "yes"): (one_scale, [*scales, *voting]),
        ("multi-scale-trained", "yes", "yes", "yes"): (multi_scale, [*scales, *voting]),
    }
    output, detections = tmp_path / "output", set()
    for i, ((name, *marks), (file, options)) in enumerate(tests.items()):
        folder = tmp_path / "train_net" / name
        metrics = evaluate(file, folder, *options)
        for row, dataset in zip(rows[i::5], NAMES, strict=True):
            assert list(row.values())[:4] == [dataset, *marks]
            assert all(float(row[x]) == metrics[dataset][x] for x in ("AP", "AP50", "AP75"))
            assert float(row["s/image"]) > 0
        file = "clutter_coco_test/coco_instances_results.json"
        expected = (folder / f"inference{'_TTA' if options else ''}" / file).read_bytes()
        assert (output / name / file).read_bytes() == expected
        detections.add(expected)
    assert len(rows) == 10 and len(detections) == 5  # no two can be taken for another
    assert sum(float(x["AP50"]) > 0 for x in rows) >= 3

    in_markdown = read_markdown(output / "ablation.md")
    for row, cells in zip(rows, in_markdown, strict=True):
        values = list(row.values())
        assert cells[:3] == [x or "-" for x in values[1:4]]
        assert cells[3:6] == [f"{float(x):.1f}" for x in values[4:7]]
        assert cells[6] == f"{float(values[7]):.3f}"
    text = (output / "ablation.md").read_text()
    assert printed.startswith(text)
    assert f"Weights trained on multiple scales: {multi_scale}\n" in text
    assert "Multi-scale test: shorter side 64, 128 pixels" in text
    assert "NMS: at 0.5, and before voting at 0.3" in text

    # Once more: only the tables are written again, without a model.
    (output / "ablation.csv").unlink()
    monkeypatch.delattr(ablation, "load_model")
    assert run(*arguments) == (0, rows)
    assert (output / "ablation.md").read_text() == text
    assert not list(output.rglob("*.unfinished"))


def test_goes_on_after_being_killed_and_stopped(
    run, datasets, weights, tmp_path, monkeypatch, capsys
):
    undisturbed = accuracies(run(*TINY, output=tmp_path / "undisturbed")[1])
    output = tmp_path / "output"
    arguments = ["--config-file", CONFIG, "--weights", weights / "one_scale.pth"]
    arguments += ["--output", output, *TINY]
    results = output / "multi-scale" / "clutter_voc_test.results"

    def count_images():
        return results.read_bytes().count(b"\n") - 1

    process = start(datasets, *arguments)
    assert process.stdout.readline() == "stopped\n"
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert count_images() == 1 and not (output / "ablation.md").exists()
    # Only the bar: what is logged is in a file.
    assert "Start inference on" in (output / "log.txt").read_text()
    assert "multi-scale:  25%" in errors
    assert "inference" not in errors and "Evaluat" not in errors
    content = results.read_bytes()
    # As if it had been killed in the middle of a write.
    results.write_bytes(content + content[-100:-50])

    forward = ablation.ResumedModel.forward

    def stop_after_three(self, inputs):
        if len(self.results.results) == 3:
            raise KeyboardInterrupt
        return forward(self, inputs)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(ablation.ResumedModel, "forward", stop_after_three)
        with pytest.raises(SystemExit, match=f"The same command continues from .* {output}"):
            run(*TINY)
    # The bar began where the first run had been killed, in the second row.
    assert f" {2 * COUNT + 1}/{8 * COUNT} [00:00<?" in capsys.readouterr().err
    assert count_images() == 3 and results.read_bytes().startswith(content)

    computed, rows = run(*TINY)
    assert computed == 8 * COUNT - 2 * COUNT - 3
    assert accuracies(rows) == undisturbed


def test_multi_scale_weights_can_come_later(run, weights, tmp_path):
    computed, rows = run(*TINY)
    assert computed == 8 * COUNT
    file = tmp_path / "output" / "ablation.md"
    for row, cells in zip(rows[4::5], read_markdown(file)[4::5], strict=True):
        assert list(row.values())[1:] == ["yes"] * 3 + [""] * 4
        assert cells == ["yes"] * 3 + ["-"] * 4
    assert "multiple scales: none. The last row needs them: --multi-scale-w" in file.read_text()

    computed, with_them = run("--multi-scale-weights", weights / "multi_scale.pth", *TINY)
    assert computed == 2 * COUNT
    assert with_them[:4] == rows[:4] and with_them[5:9] == rows[5:9]
    assert float(with_them[4]["AP"]) >= 0


def test_some_rows(run):
    count, rows = run("--row", "plain", "--row", "voting", *TINY)
    assert count == 2 * len(NAMES) * COUNT
    has_results = [bool(x["AP"]) for x in rows]
    assert has_results == [True, False, True, False, False] * len(NAMES)


def test_what_is_done_is_not_mixed_with_another_run(run, weights, tmp_path):
    options = [*TINY, "DATASETS.TEST", "('clutter_voc_test',)"]
    _, rows = run(*options)
    output = tmp_path / "output"
    before = {x: x.read_bytes() for x in output.rglob("*.results")}
    assert len(before) == 4

    refused = r"ablation.py: .*{}/clutter_voc_test.results is from another command:.*"
    refused = f"(?s){refused}Or choose another --output"
    with pytest.raises(SystemExit, match=refused.format("plain")):
        run(*options, one_scale=weights / "multi_scale.pth")
    with pytest.raises(SystemExit, match=refused.format("plain")):
        run(*options, "INPUT.MIN_SIZE_TEST", "64")
    # These rows are the first that it matters to.
    with pytest.raises(SystemExit, match=refused.format("voting")):
        run(*options, "TEST.BOX_VOTING.IOU_THRESH", "0.6")
    with pytest.raises(SystemExit, match=refused.format("multi-scale")):
        run(*options, "TEST.AUG.FLIP", "False")
    assert {x: x.read_bytes() for x in output.rglob("*.results")} == before

    moved = tmp_path / "moved.pth"
    shutil.copy(weights / "one_scale.pth", moved)
    assert run(*options, "OUTPUT_DIR", "elsewhere", one_scale=moved) == (0, rows)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config-file", "nowhere.yaml"], "--config-file is 'nowhere.yaml', which does not exi"),
        (["--config-file", __file__], "The config .* cannot be read"),
        (["--weights", "none.pth"], "MODEL.WEIGHTS is none.pth, which does not exist"),
        (["--weights", ""], "MODEL.WEIGHTS is empty"),
        (["--weights", "."], r"MODEL.WEIGHTS is \., which is a folder"),
        (["--weights", __file__], "The weights .*test_ablation.py cannot be read"),
        (["--multi-scale-weights", "none.pth"], "MODEL.WEIGHTS is none.pth, which does not"),
        (["MODEL.ROI_BOX_HEAD.FC_DIM", "8"], r"The weights .* do not fit the model in the conf"),
        (["DATASETS.TEST", "('clutter_coco_tset',)"], "clutter_coco_tset, which is not registered"),
        (["DATASETS.TEST", "('voc_2007_test',)"], "voc_2007_test .*which does not exist"),
        (["DATASETS.TEST", "()"], "DATASETS.TEST is empty"),
        (["TEST.BOX_VOTING.IOU_THRESH", "1.5"], "TEST.BOX_VOTING.IOU_THRESH must be from 0 to 1"),
        (["TEST.AUG.MIN_SIZES", "()"], "TEST.AUG.MIN_SIZES must hold at least one size"),
        (["TEST.BOX_VOTING.NMS_TRESH", "0.3"], "Non-existent.*TEST.BOX_VOTING.NMS_TRESH"),
        (["--row", "multi-scale-trained"], "--row multi-scale-trained needs --multi-scale-weights"),
        (["--output", __file__], "Not a directory: .*Or choose another --output"),
    ],
)
def test_bad_input(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(ablation, "evaluate_dataset")
    options = [] if "--config-file" in arguments else TINY
    # The last of two options holds; values of the config come after them.
    split = [*arguments, *options] if arguments[0].startswith("--") else [*options, *arguments]
    with pytest.raises(SystemExit, match=f"(?s)ablation.py: .*{message}"):
        run(*split)


def test_proposals_of_other_images(run, tmp_path):
    file = tmp_path / "proposals.pkl"
    proposals = make_proposals(["a"], [np.float32([[0, 0, 9, 9]])], [(10, 10)])
    write_proposals(file, proposals)
    with pytest.raises(SystemExit, match=r"ablation.py: .*proposals.pkl cannot be used with"):
        run(
            *TINY,
            *("MODEL.LOAD_PROPOSALS", "True"),
            *("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
            *("DATASETS.PROPOSAL_FILES_TEST", f"('{file}', '{file}')"),
        )


def test_an_image_that_does_not_fit_the_memory(run, monkeypatch):
    def fail(*args):
        raise ablation.ImageTooLargeError("The memory is too small.")

    monkeypatch.setattr(ablation.ResumedModel, "forward", fail)
    with pytest.raises(SystemExit, match="ablation.py: The memory is too small."):
        run(*TINY)


@pytest.mark.parametrize(
    "given, missing", [([], "WEIGHTS"), (["WEIGHTS=a.pth"], "CONFIG"), (["CONFIG=a"], "WEIGHTS")]
)
def test_make_needs_both(given, missing):
    command = ["make", "ablation", "PYTHON=false", *given]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode != 0
    assert f"{missing} is missing: give {missing}=..." in process.stderr
