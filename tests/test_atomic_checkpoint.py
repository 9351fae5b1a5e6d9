import pytest
import torch

from ohem_d2.checkpoint import AtomicCheckpointer


class Killed(BaseException):
    pass


def kill(*_):
    raise Killed


def save_half(_data, file):
    file.write(b"half a file")
    raise Killed


def test_last_checkpoint_is_whole_at_any_moment(tmp_path, monkeypatch):
    model = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0", iteration=0)
    weight = model.weight.detach().clone()

    torch.nn.init.zeros_(model.weight)
    for name in ("model_0", "model_1"):  # the same file again, and another
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(torch, "save", save_half)
            checkpointer.save(name, iteration=1)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(AtomicCheckpointer, "tag_last_checkpoint", kill)
            checkpointer.save(name, iteration=1)
        assert checkpointer.save_dir == str(tmp_path)
        assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0.pth")
        restored = torch.nn.Linear(2, 2)
        assert AtomicCheckpointer(restored, str(tmp_path)).resume_or_load("")["iteration"] == 0
        assert torch.equal(restored.weight, weight)

    checkpointer.save("model_1", iteration=1)
    assert sorted(x.name for x in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0.pth",
        "model_1.pth",
    ]
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_1.pth")


def test_nothing_is_written_where_it_should_not_be(tmp_path):
    AtomicCheckpointer(torch.nn.Linear(2, 2), str(tmp_path), save_to_disk=False).save("model")
    AtomicCheckpointer(torch.nn.Linear(2, 2), "").save("model")
    assert not list(tmp_path.iterdir())
