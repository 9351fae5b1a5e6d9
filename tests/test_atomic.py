import errno
import shutil
from pathlib import Path

import pytest

from ohem_d2.utils import atomic_file, atomic_folder
from ohem_d2.utils.atomic import named_errors


def names(folder):
    return sorted(x.name for x in folder.iterdir())


def test_file(tmp_path):
    path = tmp_path / "file.txt"
    with atomic_file(str(path)) as unfinished:
        unfinished.write_text("first")
        assert names(tmp_path) == ["file.txt.unfinished"]
    assert names(tmp_path) == ["file.txt"]
    with atomic_file(path) as unfinished:
        unfinished.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as unfinished:
        unfinished.write_text("thi")
        raise KeyboardInterrupt
    assert path.read_text() == "second" and names(tmp_path) == ["file.txt"]


def test_file_that_was_never_begun(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "file.txt"):
        1 / 0  # noqa: B018
    assert names(tmp_path) == []


def test_folder(tmp_path):
    path = tmp_path / "new" / "folder"
    with atomic_folder(str(path)) as unfinished:
        (unfinished / "a").write_text("first")
        assert names(path.parent) == ["folder.unfinished"]
    assert names(path.parent) == ["folder"] and names(path) == ["a"]
    with atomic_folder(path) as unfinished:
        (unfinished / "b").write_text("second")
        assert names(path) == ["a"]
    # Nothing of the first is left.
    assert names(path.parent) == ["folder"] and names(path) == ["b"]
    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as unfinished:
        (unfinished / "c").write_text("third")
        raise KeyboardInterrupt
    assert names(path.parent) == ["folder"] and names(path) == ["b"]


def test_folder_after_a_run_that_was_killed(tmp_path):
    # At the worst moment: the old one had been moved aside, and the new one was not in its place.
    for name in ("folder.unfinished", "folder.replaced"):
        (tmp_path / name / "inner").mkdir(parents=True)
    with atomic_folder(tmp_path / "folder") as unfinished:
        assert names(unfinished) == []
        (unfinished / "a").write_text("new")
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["a"]


def test_a_folder_is_whole_at_any_moment(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    with atomic_folder(path) as unfinished:
        (unfinished / "a").write_text("first")

    def checked_rmtree(removed, **kwargs):
        assert Path(removed) != path
        rmtree(removed, **kwargs)

    rmtree = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", checked_rmtree)
    with atomic_folder(path) as unfinished:
        (unfinished / "a").write_text("second")
    assert (path / "a").read_text() == "second"


def test_the_systems_errors_name_the_file(tmp_path):
    # As of write(), which names none; and as torch.save() raises it.
    def write():
        raise OSError(errno.ENOSPC, "No space left on device")

    def save():
        try:
            write()
        finally:
            raise RuntimeError("unexpected pos 832 vs 726")

    for function in (write, save):
        for context, name in ((atomic_file, "x"), (atomic_folder, "y")):
            message = f"No space left on device: '.*/{name}'"
            with pytest.raises(OSError, match=message) as error, context(tmp_path / name):
                function()
            assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="other"), atomic_file(tmp_path / "x"):
        raise RuntimeError("other")


def test_a_broken_connection_is_about_no_file():
    # As PyTorch says that a worker was killed, while it reads from it.
    with pytest.raises(RuntimeError, match="killed"), named_errors("output"):
        try:
            raise ConnectionResetError(104, "Connection reset by peer")
        except ConnectionResetError as e:
            raise RuntimeError("DataLoader worker (pid 7) is killed") from e
