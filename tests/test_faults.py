"""
A part of what `make faults` tries: bad input, full disks and kills, on the real commands.
"""

import os
import pickle
import shutil
import signal
import time

import pytest
from faults import FAULTS, malicious_faults
from faults.cpu_processes import processes_of
from faults.fault import Fault, nothing, write
from faults.kills import kill_trainings
from faults.report import write_reports
from faults.running import (
    GOOD,
    OUTCOMES,
    SENTINEL,
    CommandProcess,
    Result,
    run_command,
    run_fault,
)
from faults.sound_folder import make_sound_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "sound"
    make_sound_folder(folder)
    return folder


# All files that could run code, and a sample: by a prime number, so that it has all commands.
SAMPLE = {id(x): x for x in (*malicious_faults.FAULTS, *FAULTS[::29])}.values()


@pytest.mark.parametrize("fault", SAMPLE, ids=lambda x: f"{x.kind}-{x.name}-{x.reader}")
def test_a_fault(sound, fault):
    result = run_fault(fault, sound)
    assert result.outcome in GOOD, result.message


def test_malicious_files_would_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(malicious_faults.Malicious()))
    assert (tmp_path / SENTINEL).exists()


@pytest.mark.parametrize("variant", ["two workers", "two processes"])
def test_kills(sound, variant):
    report = kill_trainings(sound, variant, kills=3)
    assert report.kills == 3 and report.trainings >= 1
    assert report.problems == [] and report.equal == report.trainings


def test_two_processes_train(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "folder")
    command = ["train", "--config-file", "config.yaml", "--num-gpus", "2", "OUTPUT_DIR", "new"]
    code, printed = run_command(command, tmp_path / "folder")
    assert code == 0, printed[-2000:]
    assert (tmp_path / "folder/new/log.txt.rank1").exists()


def test_a_killed_worker(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "folder")
    options = ["DATALOADER.NUM_WORKERS", "2", "SOLVER.MAX_ITER", "1000", "OUTPUT_DIR", "new"]
    process = CommandProcess(
        ["train", "--config-file", "config.yaml", *options], tmp_path / "folder"
    )
    deadline = time.monotonic() + 100
    while not (tmp_path / "folder/new/last_checkpoint").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    _, *workers = processes_of(process.pid)
    os.kill(workers[0], signal.SIGKILL)
    code, printed = process.wait()
    assert code == 1 and "Traceback" not in printed
    message = "A process that loads images was killed. If memory ran out: fewer DATALOADER.NUM_W"
    assert f"ohem-d2 train: {message}" in printed


IMPORTING = ["check", "--import", "my_data"]


# That bad outcomes are told from good ones.
@pytest.mark.parametrize(
    "command, spoil, message, outcome",
    [
        (["check", "voc:voc:all"], nothing, "", "rightly accepted"),
        (["check", "voc:voc:all"], nothing, "x", "silent"),
        (["check", "none"], nothing, "none", "clear"),
        (["check", "none"], nothing, "nobody", "unnamed"),
        (["check", "none"], nothing, "", "refused"),
        (
            [*IMPORTING, "none"],
            write("my_data.py", "open('was_run', 'w')"),
            "none",
            "code run",
        ),
        (
            [*IMPORTING, "none"],
            write("my_data.py", "open('../x', 'w')"),
            "none",
            "outside",
        ),
        (
            [*IMPORTING, "none"],
            write("my_data.py", "open('coco.json', 'w')"),
            "none",
            "loss",
        ),
        (
            [*IMPORTING, "voc:voc:all"],
            write("my_data.py", "1/0"),
            "ZeroDivisionError",
            "clear",
        ),
        (
            [*IMPORTING, "voc:voc:all"],
            write("my_data.py", "import ohem_d2.engine.input_checks as x\nx.is_path = 1\n"),
            "x",
            "traceback",
        ),
    ],
)
def test_outcomes(sound, command, spoil, message, outcome):
    fault = Fault("kind", "name", command, spoil, message)
    assert run_fault(fault, sound).outcome == outcome


def test_the_report(tmp_path):
    results = [
        Result("images", "empty", "train", "clear", "ohem-d2 train: a|b.jpg is\nempty."),
        Result("images", "empty", "inspect", "clear", "ohem-d2 inspect: a|b.jpg is\nempty."),
        Result("images", "gray", "train", "rightly accepted", "anything"),
        Result("weights", "binary", "train", "traceback", "KeyError"),
    ]
    write_reports(tmp_path, results, [], "made by")
    full = (tmp_path / "reliability_full.md").read_text()
    assert "| empty | train, inspect | clear | a\\|b.jpg is empty. |" in full
    assert "| gray | train | rightly accepted |  |" in full
    page = (tmp_path / "reliability.md").read_text()
    assert "## 4 faults" in page and "0 unnamed, 1 traceback, 0 silent" in page


def test_the_table_is_large_and_each_fault_differs():
    assert len(FAULTS) >= 500
    commands = [(x.kind, x.name, tuple(x.command)) for x in FAULTS]
    assert len(set(commands)) == len(commands)
    assert set(GOOD) < set(OUTCOMES)
