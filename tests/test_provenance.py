"""
The commit that results are recorded with: of a git checkout, and of a copy of it without git.
"""

import shutil
import subprocess

import pytest

from benchmarks import provenance
from ohem_d2.utils import InputError


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """
    A git checkout with one commit, in which results are recorded.
    """
    root = tmp_path / "checkout"
    (root / "benchmarks/results").mkdir(parents=True)
    (root / "code.py").write_text("1")
    (root / "benchmarks/results/a.jsonl").write_text("1")
    (root / ".gitignore").write_text("/output/\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    monkeypatch.setattr(provenance, "ROOT", root)
    return root


def test_a_copy_without_git_has_the_commit(checkout, tmp_path, monkeypatch):
    provenance.leave_commit()
    commit = provenance.provenance()["commit"]
    assert len(commit) >= 7 and not commit.endswith("+")

    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git"))
    monkeypatch.setattr(provenance, "ROOT", copy)
    (copy / "benchmarks/results/a.jsonl").write_text("2")
    provenance.require_clean_commit()
    assert provenance.provenance()["commit"] == commit
    # It is not taken for what it is no longer a copy of.
    for change in (lambda x: x.write_text("2"), lambda x: x.unlink()):
        change(copy / "code.py")
        with pytest.raises(InputError, match="it has changed in\ncode.py\n"):
            provenance.require_clean_commit()
        assert provenance.provenance()["commit"] == f"{commit}+"


def test_a_changed_checkout_leaves_no_commit(checkout):
    (checkout / "benchmarks/results/a.jsonl").write_text("2")  # the runs before this one
    assert not provenance.provenance()["commit"].endswith("+")
    (checkout / "code.py").write_text("2")
    assert provenance.provenance()["commit"].endswith("+")
    with pytest.raises(InputError, match="it has changed in\n.*code.py\n"):
        provenance.leave_commit()
    assert not (checkout / provenance.COMMIT_FILE).exists()


def test_neither(checkout):
    shutil.rmtree(checkout / ".git")
    with pytest.raises(InputError, match="git cannot tell the commit of .* `make wheels`"):
        provenance.provenance()
