"""
The command for a machine with a GPU, tried on whatever runs the tests.
"""

import argparse
import importlib.metadata
import re
import zipfile

import pytest
import torch

from benchmarks.gpu import run, wheels
from ohem_d2.utils import InputError


def test_a_part_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    code = {"tests": "import sys; print('a failure'); sys.exit(3)", "syncs": "print('a success')"}
    monkeypatch.setattr(run, "command", lambda part, args: ["-c", code[part]])
    folder = tmp_path / "new"
    assert not run.main(["--trial", "--parts", *code, "--output", str(folder)])
    rows = [x.split("|")[1:5] for x in (folder / "summary.md").read_text().splitlines() if "|" in x]
    rows = [[x.strip() for x in row] for row in rows[2:]]
    assert [[x[0], x[1], x[3]] for x in rows] == [
        ["tests", "failed (3)", "tests.log"],
        ["syncs", "passed", "syncs.log"],
    ]
    assert (folder / "tests.log").read_text() == "a failure\n"
    assert (folder / "syncs.log").read_text() == "a success\n"
    assert "failed (3)" in capsys.readouterr().out
    assert run.main(["--trial", "--parts", "syncs", "--output", str(folder)])


@pytest.mark.slow
def test_parts(tmp_path):
    parts = ["environment", "syncs", "merging", "steps"]
    arguments = ["--trial", "--repeats", "1", "--models", "Cascade", "--output", str(tmp_path)]
    assert run.main([*arguments, "--parts", *parts])
    assert "PyTorch" in (tmp_path / "environment.log").read_text()
    assert "nms_by_loss" in (tmp_path / "syncs.md").read_text()
    boxes = (tmp_path / "merging.md").read_text().splitlines()[-1].split("|")[1]
    assert int(boxes.replace(",", "")) > 100
    assert "OHEM" in (tmp_path / "step_time.md").read_text()


def test_the_tests_of_cuda_are_run(tmp_path):
    line = run.command("tests", argparse.Namespace(output=tmp_path, trial=True, repeats=None))
    names = re.findall(r"tests/(test_\w+\.py)", " ".join(line))
    assert {"test_cuda.py", "test_distributed.py", "test_ohem.py"} <= set(names)
    assert "test_install_detectron2.py" not in names  # needs pypi-simple


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu(tmp_path):
    with pytest.raises(InputError, match="finds no CUDA device.* nvidia-smi .* --trial"):
        run.main(["--output", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_versions_of_wheels(tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").write_text(
        "# pinned\nyacs==0.1.8\npandas==2.3.3 ; python_full_version < '3.11'\n"
        "pandas==3.1.1 ; python_full_version >= '3.11'\ntorch==2.15.0\n"
    )
    monkeypatch.setattr(wheels, "ROOT", tmp_path)
    names = ("pandas", "yacs")
    assert wheels.pinned(names, "3.10") == ["yacs==0.1.8", "pandas==2.3.3"]
    assert wheels.pinned(names, "3.12") == ["yacs==0.1.8", "pandas==3.1.1"]


def test_all_wheels_are_pinned():
    for version in ("3.10", "3.12"):
        names = (*wheels.PURE, *wheels.COMPILED)
        assert sorted(x.split("==")[0] for x in wheels.pinned(names, version)) == sorted(names)


def test_wheel_of_detectron2(tmp_path):
    files = importlib.metadata.files("detectron2")
    if any(x.suffix == ".so" for x in files):
        with pytest.raises(InputError, match="has a compiled extension"):
            wheels.pack_detectron2(tmp_path)
        return
    wheels.pack_detectron2(tmp_path)
    (wheel,) = tmp_path.glob("detectron2-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert packed.testzip() is None
        for file in files:
            if file.parts[0] == "detectron2" and file.suffix in (".py", ".yaml"):
                assert packed.read(str(file)) == file.read_binary()
