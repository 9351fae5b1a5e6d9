import json
import shutil
import subprocess
import sys

import pytest
import setup_environment

PACKAGES = (
    "__editable__.ohem_d2-0.1.0.pth",
    "numpy-2.0.0.dist-info",
    "opencv_contrib_python_headless-4.14.0.dist-info",
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """
    A project whose set-up commands are recorded, not run.
    """
    (tmp_path / "tools").mkdir()
    for name in ("requirements.txt", "setup.py", "tools/install_detectron2.py"):
        (tmp_path / name).write_text(name)
    venv = tmp_path / ".venv"
    monkeypatch.setattr(setup_environment, "ROOT", tmp_path)
    monkeypatch.setattr(setup_environment, "VENV", venv)
    monkeypatch.setattr(setup_environment, "PYTHON", venv / "bin" / "python")
    monkeypatch.setattr(setup_environment, "STAMP", venv / "made_from.json")
    monkeypatch.setattr(setup_environment, "use_index_of_pip", lambda: None)
    return tmp_path


def set_up(project, monkeypatch, *arguments, fail_at=None):
    """
    Returns:
        list[str]: the steps
    """
    done = []

    def run(*command):
        if fail_at and fail_at in command:
            raise subprocess.CalledProcessError(1, command)
        if "venv" in command:
            done.append("venv")
            (project / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
            (project / ".venv" / "bin" / "python").touch()
        elif "requirements.txt" in command:
            done.append("requirements")
            packages = project / ".venv/lib/python3.11/site-packages"
            shutil.rmtree(packages, ignore_errors=True)
            packages.mkdir(parents=True)
            for name in PACKAGES:
                (packages / name).touch()
        elif "tools/install_detectron2.py" in command:
            done.append(" ".join(command[2:]))

    monkeypatch.setattr(setup_environment, "run", run)
    monkeypatch.setattr(sys, "argv", ["setup_environment.py", *arguments])
    setup_environment.main()
    return done


EVERYTHING = ["venv", "requirements", "--reinstall"]


def test_created_once(project, monkeypatch):
    assert set_up(project, monkeypatch) == EVERYTHING
    assert set_up(project, monkeypatch) == []


@pytest.mark.parametrize(
    "removed, added",
    [
        ("numpy-2.0.0.dist-info", "numpy-2.1.0.dist-info"),
        (None, "opencv_python-5.0.0.dist-info"),
        ("__editable__.ohem_d2-0.1.0.pth", "ohem_d2-0.1.0.dist-info"),  # pip install .
    ],
)
def test_created_again_after_its_packages_were_changed(project, monkeypatch, removed, added):
    set_up(project, monkeypatch)
    packages = project / ".venv/lib/python3.11/site-packages"
    if removed:
        (packages / removed).unlink()
    (packages / added).touch()
    assert set_up(project, monkeypatch) == EVERYTHING
    # What a user adds does no harm.
    (packages / "another-1.0.dist-info").touch()
    assert set_up(project, monkeypatch) == []


@pytest.mark.parametrize("fail_at", ["venv", "requirements.txt"])
def test_created_again_after_a_failure(project, monkeypatch, fail_at):
    with pytest.raises(subprocess.CalledProcessError):
        set_up(project, monkeypatch, fail_at=fail_at)
    assert set_up(project, monkeypatch) == EVERYTHING

    # Also if it was up to date before.
    (project / "requirements.txt").write_text("changed")
    with pytest.raises(subprocess.CalledProcessError):
        set_up(project, monkeypatch, fail_at=fail_at)
    assert set_up(project, monkeypatch) == EVERYTHING


def test_detectron2_is_tried_again_after_a_failure(project, monkeypatch):
    with pytest.raises(subprocess.CalledProcessError):
        set_up(project, monkeypatch, fail_at="tools/install_detectron2.py")
    assert set_up(project, monkeypatch) == ["--reinstall"]


def test_follows_the_requirements_and_the_installer(project, monkeypatch):
    set_up(project, monkeypatch)
    (project / "requirements.txt").write_text("changed")
    assert set_up(project, monkeypatch) == EVERYTHING
    (project / "tools/install_detectron2.py").write_text("changed")
    assert set_up(project, monkeypatch) == ["--reinstall"]


def test_follows_python(project, monkeypatch):
    set_up(project, monkeypatch)
    (project / ".venv/bin/python").unlink()  # as if its target was removed
    assert set_up(project, monkeypatch) == EVERYTHING
    stamp = project / ".venv/made_from.json"
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "python": "3.9.1"}))
    assert set_up(project, monkeypatch) == EVERYTHING


def test_the_chosen_detectron2_stays(project, monkeypatch):
    upstream = ["--detectron2", "git+https://somewhere"]
    set_up(project, monkeypatch)
    assert set_up(project, monkeypatch, *upstream) == ["--from git+https://somewhere"]
    assert set_up(project, monkeypatch, *upstream) == []
    assert set_up(project, monkeypatch) == []
    (project / "tools/install_detectron2.py").write_text("changed")
    assert set_up(project, monkeypatch) == []
    # Also in an environment that is created again.
    (project / "requirements.txt").write_text("changed")
    assert set_up(project, monkeypatch) == ["venv", "requirements", "--from git+https://somewhere"]
