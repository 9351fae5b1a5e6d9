"""
The command `ohem-d2`, and what a wheel of the package holds.
"""

import os
import re
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT
from tiny_training import CONFIG, TINY

from ohem_d2 import __main__ as cli
from ohem_d2 import __version__
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


@pytest.mark.slow
def test_what_is_installed(tmp_path):
    """
    From a source release, and the wheel that is built from it: all code, configs and pages.
    """
    build = "from setuptools.build_meta import *; import sys; "
    subprocess.run(
        [sys.executable, "-c", build + f"print(build_sdist({str(tmp_path)!r}))"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (release,) = tmp_path.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", tmp_path, release], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("ohem_d2", "configs"):
        for x in (ROOT / folder).rglob("*"):
            if x.is_file() and x.suffix in (".py", ".yaml", ".html", ".css", ".js", ".typed"):
                name = x.relative_to(ROOT).as_posix()
                assert ("ohem_d2/" * (folder == "configs") + name) in files

    site = tmp_path / "site"
    subprocess.run([*pip, "install", *offline, "--target", site, wheel], check=True)
    name = "PascalVOC-Detection/fast_rcnn_VGG16_ohem.yaml"
    code = f"import ohem_d2.model_zoo as zoo; print(zoo.get_config_file({name!r}))"
    # The package installed comes before the one of this clone.
    environment = {"PYTHONPATH": str(site)}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == str(site / "ohem_d2/configs" / name)
    assert (site / "bin/ohem-d2").is_file()
