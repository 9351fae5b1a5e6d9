"""
The command `ohem-d2`, and what a wheel of the package holds.
"""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from tiny_training import CONFIG, TINY

from ohem_d2 import __main__ as cli
from ohem_d2 import __version__
from ohem_d2.commands.command_line import exit_on_error
from ohem_d2.data.datasets.clutter import generate_clutter


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["ohem-d2", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_each_command_has_help(command, monkeypatch, capsys):
    assert run(monkeypatch, command, "--help") == 0
    assert f"usage: ohem-d2 {command} " in capsys.readouterr().out


def test_the_list_of_commands(monkeypatch, capsys):
    assert run(monkeypatch, "--help") == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in cli.COMMANDS)
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"ohem-d2 {__version__}\n"
    assert run(monkeypatch, "trian") == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err


def test_messages_begin_with_the_command(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = run(monkeypatch, "compare", "a", "b")
    assert message.startswith("ohem-d2 compare: a is not a folder.")
    message = run(monkeypatch, "train", "--config-file", "none.yaml")
    assert message.startswith("ohem-d2 train: --config-file is 'none.yaml'")


@pytest.mark.parametrize(
    "error, message",
    [
        (ConnectionResetError(104, "Connection reset"), "read or written: Connection reset."),
        (RuntimeError("DataLoader worker (pid 7) is killed"), "loads images was killed."),
    ],
)
def test_a_broken_connection_is_not_a_killed_worker(error, message):
    with pytest.raises(SystemExit, match=message), exit_on_error():
        raise error


@pytest.mark.parametrize(
    "module, requirement", [("jinja2", "jinja2"), ("cv2", '"opencv-python<5"')]
)
def test_a_missing_package_is_named(monkeypatch, module, requirement):
    def fail(name):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli, "import_module", fail)
    message = run(monkeypatch, "compare", "a", "b")
    assert message == (
        f"ohem-d2 compare: needs {module}, which is missing: pip install {requirement}"
    )


@pytest.mark.parametrize(
    "script",
    ["train_net.py", *(f"tools/{x}.py" for x, _ in cli.COMMANDS.values() if x != "train")],
)
@pytest.mark.slow
def test_the_scripts_are_the_commands(script):
    command = [sys.executable, "-W", "ignore", ROOT / script, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"usage: {script.rpartition('/')[2]} ")


@pytest.mark.slow
def test_no_warning_of_a_dependency(tmp_path):
    generate_clutter(str(tmp_path / "datasets"), 0, {"train": 2, "test": 2})
    options = [*TINY, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", "output", "SOLVER.STEPS", "()"]
    command = [sys.executable, "-m", "ohem_d2", "train", "--config-file", CONFIG, *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [*command, "DATASETS.TEST", "('clutter_voc_test', 'clutter_coco_test')"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    printed = result.stdout + result.stderr
    assert "AP50" in printed
    assert not re.search(r"\w+Warning: ", printed), printed
