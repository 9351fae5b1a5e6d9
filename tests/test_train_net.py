"""
train_net.py on a tiny dataset.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, load_config, use_clutter
from detectron2.modeling import build_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import CONFIG, TINY, parse, run_train_net

from ohem_d2.commands import compute_proposals
from ohem_d2.commands import train as train_net
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.engine.folder_lock import folder_lock
from ohem_d2.evaluation import describe_test

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def command(monkeypatch):
    """
    Messages begin with the name of the command.
    """
    monkeypatch.setattr(sys, "argv", ["train_net.py"])


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    generate_clutter(str(root), 0, {"train": 8, "test": 4})
    return root


def optimizer_state(checkpoint):
    # Where detectron2 saves it; 0.5 does not, and train_net.py does.
    trainer = checkpoint["trainer"].get("_trainer") or checkpoint["optimizer"]
    return trainer["optimizer"]


def setup(args):
    cfg, falls_back = train_net.load(args)
    train_net.setup(args, cfg, falls_back)
    return cfg


def test_train_kill_resume_evaluate(datasets, tmp_path):
    use_clutter(datasets)
    output = tmp_path / "output"
    process = subprocess.Popen(
        [sys.executable, "train_net.py", "--config-file", CONFIG, *TINY, "OUTPUT_DIR", output],
        cwd=ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    last = output / "last_checkpoint"
    deadline = time.monotonic() + 300
    while not (last.exists() and last.read_text() >= "model_0000002.pth"):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed_at = last.read_text()
    assert killed_at < "model_0000011.pth"

    # What a checkpoint holds: besides the weights, the momentum of the optimizer, the scheduler
    # and the iteration.
    checkpoint = torch.load(output / killed_at, weights_only=False)
    state = optimizer_state(checkpoint)["state"]
    assert len(state) > 10 and all(x["momentum_buffer"].abs().sum() > 0 for x in state.values())
    iteration = checkpoint["iteration"]
    assert killed_at == f"model_{iteration:07d}.pth"

    run_train_net("--resume", options=["OUTPUT_DIR", output])
    log = (output / "log.txt").read_text()
    assert f"Starting training from iteration {iteration + 1}" in log
    assert "RoI sampling in training: OHEMROIHeads (online hard example mining): the 64 " in log
    assert (output / "model_final.pth").exists() and last.read_text() == "model_final.pth"
    assert not list(output.glob("unfinished*"))
    final = torch.load(output / "model_final.pth", weights_only=False)
    assert final["iteration"] == 11
    # The scheduler went on: it has counted all iterations and lowered the rate at the tenth.
    (scheduler,) = (v for k, v in final["trainer"]["hooks"].items() if "LRScheduler" in k)
    assert scheduler["last_epoch"] == 12
    assert optimizer_state(final)["param_groups"][0]["lr"] == pytest.approx(0.002)

    metrics = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    trained = {k: v for line in metrics for k, v in line.items()}
    assert trained["ohem/num_kept"] <= 64 < trained["ohem/num_rois"]
    assert trained["max_mem"] > 100  # MiB, of this process

    options = ["OUTPUT_DIR", tmp_path / "evaluated", "MODEL.WEIGHTS", output / "model_final.pth"]
    run_train_net("--eval-only", options=options)
    log = (tmp_path / "evaluated/log.txt").read_text()
    assert "Evaluation results for clutter_voc_test" in log
    assert "Evaluation results for clutter_coco_test" in log
    assert not (tmp_path / "evaluated" / "model_final.pth").exists()  # nothing was trained
    folder = "inference/clutter_coco_test/coco_instances_results.json"
    detections = json.loads((tmp_path / "evaluated" / folder).read_text())
    assert detections == json.loads((output / folder).read_text())
    # The results are those at the end of training, which are in the metrics too.
    results, again = (
        [x["results"] for x in json.loads((folder / "results.json").read_text())]
        for folder in (output, tmp_path / "evaluated")
    )
    assert len(results) == 2 and again == results
    assert "clutter_coco_test/bbox/AP50" in trained
    assert math.isfinite(trained["clutter_voc_test/bbox/AP50"])


def test_resumed_optimizer_and_scheduler(datasets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use_clutter(datasets)
    options = ["OUTPUT_DIR", str(tmp_path / "out"), "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "4"]
    cfg = setup(parse("--config-file", CONFIG, options=options))
    trainer = train_net.Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()

    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = 8
    resumed = train_net.Trainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 4
    before, after = trainer.optimizer.state_dict(), resumed.optimizer.state_dict()
    assert before["state"].keys() == after["state"].keys()
    for index, state in before["state"].items():
        assert torch.equal(state["momentum_buffer"], after["state"][index]["momentum_buffer"])
    assert resumed.scheduler.last_epoch == trainer.scheduler.last_epoch == 4


@pytest.mark.parametrize(
    "config, options, message",
    [
        ("", [], "--config-file is '', which does not exist"),
        ("nowhere.yaml", [], "--config-file is 'nowhere.yaml', which does not exist"),
        (CONFIG, ["MODEL.OHEM.NMS_TRESH", "0.5"], "Non-existent.*MODEL.OHEM.NMS_TRESH"),
        (CONFIG, ["MODEL.OHEM.NMS_THRESH", "high"], "high.*MODEL.OHEM.NMS_THRESH"),
        (CONFIG, ["MODEL.OHEM.NMS_THRESH"], "list"),
        (CONFIG, ["MODEL.WEIGHTS", "none.pth"], "MODEL.WEIGHTS is none.pth, which does not exist"),
        (
            CONFIG,
            ["TEST.BOX_VOTING.ENABLED", "True", "TEST.BOX_VOTING.IOU_THRESH", "50.0"],
            "TEST.BOX_VOTING.IOU_THRESH must be from 0 to 1, not 50.0",
        ),
        (CONFIG, ["SOLVER.MAX_ITER", "-3"], "SOLVER.MAX_ITER is -3: it must be at least 1"),
        (CONFIG, ["MODEL.ROI_HEADS.NUM_CLASSES", "7"], "NUM_CLASSES is 7, but .* has 4 classes"),
        (CONFIG, ["MODEL.RPN.IN_FEATURES", "['res9']"], "cannot be used: KeyError: 'res9'"),
        (
            CONFIG,
            ["MODEL.OHEM.FOREGROUND", "some"],
            "cannot be used: MODEL.OHEM.FOREGROUND is 'some'",
        ),
    ],
)
def test_wrong_input_ends_it_with_a_message(datasets, config, options, message):
    use_clutter(datasets)
    with pytest.raises(SystemExit, match=f"train_net.py: .*{message}"):
        train_net.train(parse("--config-file", config, options=options))


@pytest.mark.parametrize(
    "name, code, message",
    [
        ("my_bug", "1 / 0", r"ZeroDivisionError: division by zero \(.*my_bug.py, line 1\)"),
        ("my_need", "import no_such_module", "No module named 'no_such_module'"),
        ("my_typo", "x = (", r"SyntaxError: '\(' was never closed"),
    ],
)
def test_an_import_that_fails(tmp_path, monkeypatch, name, code, message):
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"train_net.py: --import {name}: {message}"):
        run_train_net("--import", name)


def test_two_trainings_in_one_folder(datasets, tmp_path, monkeypatch):
    use_clutter(datasets)
    refused = []

    def second(*_):
        with pytest.raises(SystemExit) as error:
            run_train_net(options=["OUTPUT_DIR", tmp_path])
        refused.append(str(error.value))
        monkeypatch.undo()  # the first goes on

    monkeypatch.setattr(train_net, "run_with_config", second)
    run_train_net(options=["OUTPUT_DIR", tmp_path])
    (message,) = refused
    assert f"Another training writes to {tmp_path}. Wait" in message
    # When it has ended, the next one may.
    with folder_lock(str(tmp_path)):
        pass


def test_a_folder_that_cannot_be_written_to(datasets, tmp_path):
    use_clutter(datasets)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="OUTPUT_DIR is .*file/output, which cannot be written to"):
        run_train_net(options=["OUTPUT_DIR", tmp_path / "file/output"])


def test_import_registers_datasets(datasets, tmp_path, monkeypatch):
    use_clutter(datasets)
    (tmp_path / "my_data_for_training.py").write_text(
        "from detectron2.data.datasets import register_coco_instances\n"
        f"folder = {str(datasets / 'clutter')!r}\nimages = f'{{folder}}/JPEGImages'\n"
        'register_coco_instances("my_training", {}, f"{folder}/coco/instances_test.json", images)\n'
    )
    monkeypatch.chdir(tmp_path)
    arguments = ("--config-file", CONFIG, "--import", "my_data_for_training")
    options = ["DATASETS.TRAIN", "('my_training',)", "OUTPUT_DIR", str(tmp_path / "out")]
    assert setup(parse(*arguments, options=options)).DATASETS.TRAIN == ("my_training",)
    with pytest.raises(SystemExit, match=r"train_net.py: --import no_such: No module named"):
        train_net.train(parse("--config-file", CONFIG, "--import", "no_such"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """
    Random, of a model that tells its classes.
    """
    torch.manual_seed(0)
    model = build_model(load_config("demo/faster_rcnn_R_18_ohem.yaml", *TINY))
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.1)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save({"model": model.state_dict()}, path)
    return str(path)


AUGMENTED = [
    *("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64, 96)"),
    *("TEST.ITERATIVE_BBOX.ENABLED", "True", "TEST.ITERATIVE_BBOX.SCORE_THRESH", "0.3"),
    *("TEST.BOX_VOTING.ENABLED", "True"),
]


def test_eval_only_augmented(datasets, tmp_path, weights):
    """
    The plain and the augmented model in one table. The plain results do not depend on the others.
    """
    use_clutter(datasets)
    options = ["INPUT.MIN_SIZE_TEST", "64", "MODEL.WEIGHTS", weights]

    def run(name, *more):
        output = ["OUTPUT_DIR", str(tmp_path / name)]
        return run_train_net("--eval-only", options=[*options, *output, *more])

    plain, both = run("plain"), run("both", *AUGMENTED)
    assert list(both) == ["clutter_voc_test", "clutter_coco_test"]
    for name, results in both.items():
        assert list(results) == ["bbox", "bbox_TTA"]
        assert results["bbox"] == pytest.approx(plain[name]["bbox"], nan_ok=True)
        assert results["bbox_TTA"] != results["bbox"]
    table = (tmp_path / "both/results.md").read_text()
    assert table in (tmp_path / "both/log.txt").read_text()
    assert [x.split("|")[3].strip() for x in table.splitlines()[2:]] == [
        *["plain"] * 2,
        *["2 scales and flip, 2 rounds, voting"] * 2,
    ]


def test_after_training_each_test_runs_once(datasets, tmp_path, monkeypatch):
    """
    The plain model within the training, which reports it, and the augmented one at its end.
    """
    use_clutter(datasets)
    tests = []

    def evaluate(cfg, model, build_evaluator):
        tests.append(describe_test(cfg))
        suffix = "" if tests[-1] == "plain" else "_TTA"
        return {name: {f"bbox{suffix}": {"AP": 1.0}} for name in cfg.DATASETS.TEST}

    monkeypatch.setattr(train_net, "evaluate_model", evaluate)
    options = ["SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path), *AUGMENTED]
    results = run_train_net(options=options)
    assert tests == ["plain", "2 scales and flip, 2 rounds, voting"]
    assert list(results["clutter_voc_test"]) == ["bbox", "bbox_TTA"]
    assert '"clutter_voc_test/bbox/AP": 1.0' in (tmp_path / "metrics.json").read_text()


def test_build_evaluator(datasets, tmp_path):
    use_clutter(datasets)
    cfg = load_config("demo/faster_rcnn_R_18_ohem.yaml", "OUTPUT_DIR", str(tmp_path))
    evaluator = train_net.Trainer.build_evaluator(cfg, "clutter_voc_test")
    assert evaluator._output_dir == str(tmp_path / "inference/clutter_voc_test")


@pytest.mark.parametrize(
    "options, message",
    [
        (["MODEL.WEIGHTS", ""], "MODEL.WEIGHTS is empty. Name the weights to evaluate"),
        (
            ["MODEL.ROI_BOX_HEAD.FC_DIM", "8"],
            r"random.pth do not fit the model .* \(16, \d+\) in the",
        ),
    ],
)
def test_weights_that_cannot_be_evaluated(datasets, tmp_path, weights, options, message):
    use_clutter(datasets)
    options = ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path / "output"), *options]
    with pytest.raises(SystemExit, match=f"train_net.py: .*{message}"):
        run_train_net("--eval-only", options=options)
    assert not list(tmp_path.rglob("*results*"))


def test_a_scale_that_exceeds_the_memory(datasets, tmp_path, weights, monkeypatch):
    use_clutter(datasets)
    options = ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path), *AUGMENTED]
    options += ["INPUT.MIN_SIZE_TEST", "64"]
    convolve = torch.nn.functional.conv2d

    def conv2d(images, *args, **kwargs):
        if min(images.shape[2:]) >= 96:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return convolve(images, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "conv2d", conv2d)
    with pytest.raises(SystemExit, match="train_net.py: An image of .* does not fit into memory"):
        run_train_net("--eval-only", options=options)
    assert not list(tmp_path.rglob("*.unfinished"))
    # The plain model had its results before.
    assert {x["test"] for x in json.loads((tmp_path / "results.json").read_text())} == {"plain"}


def test_missing_data_is_named(datasets, tmp_path):
    use_clutter(datasets / "missing")
    message = (
        r"^train_net.py: .*clutter_voc_train \(DATASETS.TRAIN\) needs .* "
        r"Make it with: python tools/make_clutter.py\."
    )
    with pytest.raises(SystemExit, match=message):
        run_train_net(options=["OUTPUT_DIR", tmp_path / "output"])
    assert not (tmp_path / "output").exists()


def test_wrong_input_is_a_non_zero_exit():
    command = [sys.executable, "train_net.py", "--config-file", "missing.yaml"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 1
    assert "train_net.py: --config-file" in process.stderr and "missing.yaml" in process.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_gpu_it_falls_back_to_the_cpu(datasets, tmp_path):
    use_clutter(datasets)
    options = ["OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cuda"]
    cfg = setup(parse("--config-file", CONFIG, options=options))
    assert cfg.MODEL.DEVICE == "cpu"
    assert "MODEL.DEVICE is cuda, but CUDA is not available" in (tmp_path / "log.txt").read_text()


def test_fast_rcnn_on_proposals(datasets, tmp_path, monkeypatch):
    """
    The tool and the config of the demo's Fast R-CNN, with accumulated gradients, and with the
    proposal file of another dataset.
    """
    monkeypatch.chdir(tmp_path)
    use_clutter(datasets)
    options = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "output")]
    for split, key in (("train", "TRAIN"), ("test", "TEST")):
        file = str(tmp_path / f"{split}.pkl")
        command = ["compute_proposals.py", f"clutter_voc_{split}", file, "--processes", "0"]
        monkeypatch.setattr(sys, "argv", command)
        compute_proposals.main()
        options += [f"DATASETS.PROPOSAL_FILES_{key}", f"('{file}',)"]
    options += ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "INPUT.MIN_SIZE_TRAIN", "(96,)"]
    options += ["MODEL.OHEM.WARMUP_ITERS", "0"]
    options += ["INPUT.MIN_SIZE_TEST", "96", "MODEL.ROI_BOX_HEAD.FC_DIMS", "[8, 8]"]
    config = str(ROOT / "configs/demo/fast_rcnn_VGG16_ohem.yaml")

    def run(*more):
        args = train_net.argument_parser().parse_args(["--config-file", config, *options, *more])
        return train_net.train(args)

    run("SOLVER.ACCUMULATION_PASSES", "2")
    metrics = [json.loads(x) for x in (tmp_path / "output/metrics.json").read_text().splitlines()]
    (trained,) = (x for x in metrics if "total_loss" in x)
    assert trained["ohem/num_rois"] > 50
    with pytest.raises(SystemExit, match=r"PROPOSAL_FILES_TRAIN: .*test.pkl .* Image train_"):
        run("DATASETS.PROPOSAL_FILES_TRAIN", f"('{tmp_path / 'test.pkl'}',)")


def test_tensorboard_shows_what_is_mined(datasets, tmp_path):
    use_clutter(datasets)
    options = ["OUTPUT_DIR", tmp_path, "DATASETS.TEST", (), "MODEL.OHEM.WARMUP_ITERS", 0]
    run_train_net(options=[*options, "VIS_PERIOD", 4])
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [x.step for x in events.Images("ohem/hard_rois")] == [0, 4, 8]
    shares = [
        events.Scalars(x)[-1].value
        for x in events.Tags()["scalars"]
        if x.startswith("ohem/mistaken_for/")
    ]
    assert len(shares) == 4 and sum(shares) == pytest.approx(1)
    assert {"ohem/loss_p90", "ohem/loss_kept_p90"} <= set(events.Tags()["scalars"])


def test_a_warm_up_that_does_not_end(datasets, tmp_path):
    use_clutter(datasets)
    for options, is_warned in ((("--eval-only",), False), ((), True)):
        output = tmp_path / str(is_warned)
        arguments = parse(
            *("--config-file", CONFIG, *options),
            options=["MODEL.OHEM.WARMUP_ITERS", 12, "OUTPUT_DIR", output, "MODEL.WEIGHTS", CONFIG],
        )
        setup(arguments)
        log = (output / "log.txt").read_text()
        assert ("Mining never starts: MODEL.OHEM.WARMUP_ITERS is 12" in log) == is_warned


def test_a_training_that_diverges_says_what_helps(datasets, tmp_path):
    use_clutter(datasets)
    options = ["SOLVER.BASE_LR", 1e30, "OUTPUT_DIR", tmp_path, "DATASETS.TEST", ()]
    with pytest.raises(SystemExit, match="(?s)diverged.*SOLVER.CLIP_GRADIENTS.ENABLED True or"):
        run_train_net(options=options)
    log = (tmp_path / "log.txt").read_text()
    assert "Starting training" in log and "Traceback" not in log
