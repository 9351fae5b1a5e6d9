"""
`ohem-d2 reproduce`: the paper by one command, with scaled schedules on small data.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from paper_data import TINY, write_datasets, write_weights

from ohem_d2.__main__ import main
from ohem_d2.engine import InputError
from ohem_d2.evaluation.mean_roi_loss import find_checkpoints
from ohem_d2.reproduction import cost
from ohem_d2.reproduction.inputs import SOURCES, needed_datasets
from ohem_d2.reproduction.results import collect, read_paper
from ohem_d2.reproduction.rows import FIGURE_3, ROWS, choose_rows
from ohem_d2.reproduction.run import run_chains
from ohem_d2.reproduction.settings import Settings
from ohem_d2.reproduction.steps import Step

pytestmark = pytest.mark.slow

# The first stages are frozen, for smaller checkpoints.
OPTS = ["--opts", *TINY, "MODEL.BACKBONE.FREEZE_AT", "3", "SOLVER.CHECKPOINT_PERIOD", "60000"]


def settings(output, scale=1.0, opts=()):
    return Settings(output / "data", output, {}, None, scale, 1, opts)


def reproduce(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["ohem-d2", "reproduce", *map(str, arguments)])
    main()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """
    The arguments that name data and weights.
    """
    root = tmp_path_factory.mktemp("inputs")
    write_datasets(root / "data")
    vgg16, vgg_m = write_weights(root)
    return ["--datasets", root / "data", "--weights", vgg16, "--vgg-m-weights", vgg_m]


# --- What is planned ---


def test_numbers_of_the_paper_have_rows():
    numbers = read_paper()
    assert {x.row for x in numbers} <= set(ROWS)
    assert len({(x.row, x.metric) for x in numbers}) == len(numbers)
    table_1 = {x.row: x.value for x in numbers if x.where == "Table 1"}
    assert table_1["table1/VGG16/fast_rcnn"] == 67.2 and table_1["table1/VGG16/ohem"] == 69.9
    # The same trainings in two tables.
    by_row = {(x.row, x.metric): x.value for x in numbers}
    assert by_row["bells/ohem/plain", "AP50"] == table_1["table1/VGG16/ohem"]
    assert ROWS["bells/ohem/plain"].training == ROWS["table1/VGG16/ohem"].training


def test_tables_of_the_docs_have_the_numbers():
    page = (ROOT / "docs/reproduce.md").read_text()
    for x in read_paper():
        value = f"{x.value:.{2 if x.metric == 's / iteration' else 1}f}{'*' * x.is_from_memory()}"
        assert f"| `{x.row}` | {ROWS[x.row].title} | {x.metric} | {value} | {x.where} | |" in page
    paper = {(x.row, x.metric): x.value for x in read_paper()}
    readme = (ROOT / "README.md").read_text()
    for title, rows, metric in (
        ("VOC07", ("table1/VGG16/fast_rcnn", "table1/VGG16/ohem"), "AP50"),
        ("VOC07+12", ("voc0712/fast_rcnn", "voc0712/ohem"), "AP50"),
        ("COCO, AP", ("coco/fast_rcnn", "coco/ohem"), "AP"),
    ):
        fast_rcnn, ohem = (paper[x, metric] for x in rows)
        assert f"| {title} | {fast_rcnn} | | {ohem} | |" in readme


def test_choose_rows():
    assert [x.name for x in choose_rows([])] == list(ROWS)
    assert len(choose_rows(["table1"])) == 16
    assert [x.name for x in choose_rows(["table1/VGG16/ohem"])] == ["table1/VGG16/ohem"]
    assert choose_rows(["figure3"]) == [x for x in ROWS.values() if x in FIGURE_3.values()]
    with pytest.raises(InputError, match="no row table1/VGG16/ohm. Did you mean table1/VGG16/ohem"):
        choose_rows(["table1/VGG16/ohm"])


def test_schedules_are_scaled(tmp_path):
    row = ROWS["table1/VGG16/ohem"]  # 80,000 iterations, steps after 30,000 and 60,000
    cfg = settings(tmp_path, 0.001, ["MODEL.OHEM.NMS_THRESH", "0.5"]).config(row.training)
    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.STEPS, solver.CHECKPOINT_PERIOD) == (80, (30, 60), 20)
    assert cfg.MODEL.OHEM.NMS_THRESH == 0.5
    whole = settings(tmp_path).config(row.training)
    assert (whole.SOLVER.MAX_ITER, whole.SOLVER.STEPS) == (80000, (30000, 60000))
    assert whole.DATASETS.PROPOSAL_FILES_TRAIN == (
        str(tmp_path / "proposals/voc_2007_trainval.pkl"),
    )
    whole.SOLVER.IMS_PER_BATCH = 1  # a copy
    assert settings(tmp_path).config(row.training).SOLVER.IMS_PER_BATCH == 2
    # As far as a time can be measured.
    least = settings(tmp_path, 1e-6).config(row.training).SOLVER
    assert (least.MAX_ITER, least.STEPS, least.CHECKPOINT_PERIOD) == (5, (1,), 1)


def test_a_source_for_each_dataset(tmp_path):
    assert set(needed_datasets(list(ROWS.values()), settings(tmp_path))) == set(SOURCES)


def test_all_that_is_missing_is_listed_at_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "data/VOC2007/JPEGImages").mkdir(parents=True)
    (tmp_path / "boxes").mkdir()
    monkeypatch.setattr(cost, "_measure", lambda cfg: [0.5, 1e15])
    arguments = ["--datasets", tmp_path / "data", "--output", tmp_path / "output", "--boxes"]
    arguments += [tmp_path / "boxes", "--weights", tmp_path / "none.pth", "--num-gpus", 2]
    with pytest.raises(SystemExit) as e:
        reproduce(monkeypatch, *arguments, "--rows", "table1", "voc0712", "coco")
    lines = str(e.value).splitlines()
    for pattern in (
        r"voc_2007_trainval: there is no VOC2007/ImageSets/Main/trainval.txt, VOC2007/Annotations "
        r"in .*: unpack http://.*/VOCtrainval_06-Nov-2007.tar",
        r"voc_2007_test: .*VOCtest_06-Nov-2007.tar",
        r"voc_2012_trainval: .*VOC2012",
        r"coco_2014_train: .*instances_train2014.json, coco/train2014 in .*: unpack http",
        r"VGG16: --weights is .*none.pth, which is not a file: https.*vgg16-397923af.pth",
        r"VGG_CNN_M_1024: name its weights with --vgg-m-weights",
        r"voc_2007_test: --boxes has no voc_2007_test.mat",
        r"disk: the checkpoints take .* GB, and .* has .*: choose another --output",
        r"GPUs: 1 trainings at once need 2, and there are \d",
        r"GPUs: PascalVOC/fast_rcnn_VGG16_N1 trains on 1 images at once, which 2 GPUs cannot share",
    ):
        assert any(re.fullmatch(f"- {pattern}.*", x) for x in lines), pattern
    assert not (tmp_path / "output/settings.json").exists()


def test_list(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cost, "_measure", lambda cfg: [0.9, 1e9])
    arguments = ["--output", tmp_path, "--rows", "table1/VGG16/ohem", "voc07", "--list"]
    reproduce(monkeypatch, *arguments)
    rows = [
        [x.strip() for x in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| ")
    ]
    rows = {x[0]: x[3:] for x in rows}
    # 80,000 steps of .9 s are 20 hours; 4 checkpoints and the last.
    assert rows["table1/VGG16/ohem"] == ["80,000", "160,000", "20.0", "5.0"]
    assert rows["voc07/ohem"] == ["", "", "", ""]  # the same training
    assert rows["all of them, once"] == ["240,000", "480,000", "60.0", "15.0"]

    # What was measured is measured once.
    monkeypatch.setattr(cost, "_measure", None)
    reproduce(monkeypatch, *arguments)


def test_a_step_is_measured(tmp_path):
    training = ROWS["table2/VGG_CNN_M_1024/ohem"].training  # two passes
    small = [*TINY, "SOLVER.CHECKPOINT_PERIOD", "250"]
    (found,) = cost.measure_costs([training], settings(tmp_path, opts=small)).values()
    assert (found.iterations, found.images) == (500, 1000)
    assert 0 < found.hours < 5
    # 6.9 million parameters of the convolutions, of 4 bytes, nearly all of them with a momentum.
    assert 3 * 40e6 < found.bytes < 3 * 80e6


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--scale", "0"], "--scale must be above 0"),
        (["--scale", "2"], "--scale must be above 0"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--num-gpus", "0"], "--num-gpus must be at least 1"),
        (["--seeds", "1", "1"], "--seeds must be different"),
        (["--rows", "tabel1"], "no row tabel1"),
        (["--list", "--opts", "MODEL.OHME.NMS_THRESH", "0.5"], "MODEL.OHME.NMS_THRESH"),
    ],
)
def test_bad_arguments(tmp_path, monkeypatch, arguments, message):
    with pytest.raises(SystemExit, match=message):
        reproduce(monkeypatch, "--output", tmp_path, *arguments)


# --- What is run ---


def test_a_failure_stops_its_chain_alone(tmp_path, capsys):
    def step(name, *command):
        return Step(name, command, tmp_path / name / "finished.json")

    broken = [step("a", "check", "no_such_dataset"), step("b", "--version")]
    sound = [step("c", "--version"), step("d", "--version")]
    calls = []
    failures = run_chains([broken, sound], settings(tmp_path), 1, lambda: calls.append(1))
    assert len(failures) == 1 and len(calls) == 2
    assert re.search("(?s)^a failed:.*no_such_dataset.*All of its output: .*a/console", failures[0])
    assert [(tmp_path / x / "finished.json").exists() for x in "abcd"] == [0, 0, 1, 1]
    record = json.loads((tmp_path / "c/finished.json").read_text())
    assert record["command"] == "ohem-d2 --version" and record["torch"]
    # Again: what is done is not done again.
    (tmp_path / "c/console.txt").unlink()
    assert len(run_chains([broken, sound], settings(tmp_path), 1, list)) == 1
    assert not (tmp_path / "c/console.txt").exists()


def test_mean_and_spread_over_seeds(tmp_path):
    row = ROWS["table1/VGG16/ohem"]
    ours = settings(tmp_path)
    for seed, ap in ((1, 70.0), (2, 72.0), (3, 74.0)):
        folder = ours.folder(row.training, seed)
        folder.mkdir(parents=True)
        results = [{"test": "plain", "results": {"bbox": {"AP50": ap}}}]
        (folder / "results.json").write_text(json.dumps(results))
        (folder / "metrics.json").write_text('{"iteration": 19, "time": 0.45}\n')
        (folder / "finished.json").write_text("{}")
    (number,) = collect([row], ours, [1, 2, 3, 4])  # the fourth is not done
    assert number.values == [70, 72, 74]
    # Deviations -2, 0, 2: the sum of squares is 8, of which the half is 4.
    assert (number.mean(), number.spread()) == (72, 2)
    assert number.difference() == pytest.approx(72 - 69.9)
    assert number.hours == [10, 10, 10]  # 80,000 times .45 s


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """
    The output of all rows.
    """
    output = tmp_path_factory.mktemp("whole")
    arguments = ["--output", output, "--scale", "0.00005", "--jobs", "2", *OPTS]
    with pytest.MonkeyPatch.context() as patch:
        # Takes minutes, and has a test of its own.
        patch.setattr(cost, "_measure", lambda cfg: [1.0, 1e6])
        reproduce(patch, *inputs, *arguments)
    yield output, arguments
    shutil.rmtree(output)  # gigabytes


def test_all_rows(whole, inputs, monkeypatch, capsys):
    output, arguments = whole
    table = [
        [x.strip() for x in line.split("|")[1:-1]]
        for line in (output / "reproduction.md").read_text().splitlines()
        if re.match(r"\| \w+/", line)
    ]
    found = {(x[0], x[2]): x for x in table}
    assert {x[0] for x in table} == set(ROWS)
    for (row, metric), (*_, paper, ours, n, difference, _, made_with) in found.items():
        # AP is undefined without detections, and annotations of VOC12's test set are not public.
        if row.startswith(("coco", "voc07pp12")):
            continue
        assert ours and n == "1" and made_with, (row, metric)
        if paper:
            digits = 2 if metric == "s / iteration" else 1
            expected = float(ours) - float(paper.rstrip("*"))
            assert float(difference) == pytest.approx(expected, abs=1.1 * 10**-digits)

    # As the training itself has evaluated.
    folder = output / "runs/PascalVOC/fast_rcnn_VGG_CNN_M_1024_ohem/seed_1"
    (result,) = json.loads((folder / "results.json").read_text())
    ours = found["table1/VGG_CNN_M_1024/ohem", "AP50"][4]
    assert ours == f"{result['results']['bbox']['AP50']:.1f}"
    test = output / "runs/PascalVOC/fast_rcnn_VGG16_multi_scale_ohem/seed_1/tests"
    with open(test / "multi-scale-voting/ablation.csv", newline="") as file:
        (ap50,) = (x["AP50"] for x in csv.DictReader(file) if x["AP50"])
    assert found["bells/ohem/multi-scale-trained", "AP50"][4] == f"{float(ap50):.1f}"
    # Each training has its row's heads and its own seed.
    config = (folder / "config.yaml").read_text()
    assert "NAME: OHEMROIHeads" in config and "SEED: 1" in config

    # Detections for the server.
    folder = output / "runs/PascalVOC/fast_rcnn_VGG16_07pp12_ohem/seed_1/inference/voc_2012_test"
    assert len(list(folder.glob("comp4_det_test_*.txt"))) == 20

    # Figure 3, and the cost.
    for row in FIGURE_3.values():
        folder = output / "runs" / row.training.name / "seed_1"
        losses = json.loads((folder / "roi_loss.json").read_text())["losses"]
        assert list(losses) == [str(x) for x in find_checkpoints(folder, 5)]
        assert len(losses) > 1
    assert (output / "figure3.png").stat().st_size > 10000
    page = (output / "index.html").read_text()
    assert "figure3.png" in page and "5e-05 of the paper&#39;s: compare nothing" in page
    for row in ROWS:
        assert row in page

    # Nothing is done twice.
    began = time.time()
    reproduce(monkeypatch, *inputs, *arguments)
    assert "0 trainings are left" in capsys.readouterr().out
    assert not [x for x in output.rglob("finished.json") if x.stat().st_mtime > began]

    # Runs of other schedules are not mixed in.
    with pytest.raises(SystemExit, match="has runs with .* choose another --output"):
        reproduce(monkeypatch, *inputs, "--output", output, "--scale", "0.1", *OPTS)


def test_goes_on_after_a_kill(inputs, tmp_path):
    command = [sys.executable, "-m", "ohem_d2", "reproduce", *inputs, "--output", tmp_path]
    command += ["--rows", "table1/VGG_CNN_M_1024/ohem", "--scale", "0.0005", *OPTS]
    command += ["SOLVER.CHECKPOINT_PERIOD", "4000"]  # of 40 iterations every second
    command = list(map(str, command))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    folder = tmp_path / "runs/PascalVOC/fast_rcnn_VGG_CNN_M_1024_ohem/seed_1"
    deadline = time.monotonic() + 300
    while not (folder / "last_checkpoint").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "finished.json").exists()
    subprocess.run(command, env=environment, check=True)
    assert "Starting training from iteration" in (folder / "log.txt").read_text()
    assert "table1/VGG_CNN_M_1024/ohem" in (tmp_path / "reproduction.md").read_text()
