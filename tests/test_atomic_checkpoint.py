import pytest
import torch

from ohem_d2.checkpoint import AtomicCheckpointer
from ohem_d2.utils import InputError


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


class State:
    """
    Something beside the model that a training saves.
    """

    value = 0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def make(folder, outputs=2):
    model = torch.nn.Linear(2, outputs)
    return AtomicCheckpointer(model, str(folder), optimizer=State())


@pytest.fixture
def folder(tmp_path):
    """
    Of a training with two checkpoints.
    """
    checkpointer = make(tmp_path)
    for iteration in (4, 9):
        checkpointer.save(f"model_{iteration}", iteration=iteration)
    return tmp_path


def spoil(change):
    def spoil(folder):
        content = torch.load(folder / "model_9.pth")
        change(content)
        torch.save(content, folder / "model_9.pth")

    return spoil


ANOTHER = r"The newest other one is model_4.pth: write its name into last_checkpoint"


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda x: (x / "model_9.pth").unlink(), f"model_9.pth, .*, is not a file. {ANOTHER}"),
        (
            lambda x: (x / "model_9.pth").write_bytes(b""),
            f"model_9.pth cannot be read: .*{ANOTHER}",
        ),
        (
            lambda x: (x / "model_9.pth").write_bytes((x / "model_9.pth").read_bytes()[:-99]),
            f"model_9.pth cannot be read: .*{ANOTHER}",
        ),
        (spoil(lambda x: x.pop("optimizer")), "lacks the state of a training: optimizer. To begin"),
        (spoil(lambda x: x.pop("iteration")), "lacks the state of a training: iteration"),
        (spoil(lambda x: x["model"].pop("bias")), "do not fit .*: bias is not in the file"),
        (spoil(lambda x: x["model"]["bias"].fill_(float("nan"))), "values in bias .* not finite"),
        (spoil(lambda x: x.update(model=[1])), "they are a list, and not a dict of tensors"),
        (lambda x: (x / "last_checkpoint").write_text("model_7.pth"), "model_7.pth, .*not a file"),
    ],
)
def test_checkpoints_from_which_no_training_resumes(folder, spoil, message):
    spoil(folder)
    with pytest.raises(
        InputError, match=rf"(?s)cannot be resumed from .*last_checkpoint: .*{message}"
    ):
        make(folder).resume_or_load("")


def test_a_checkpoint_of_another_model(folder):
    with pytest.raises(InputError, match=r"weight has shape \(2, 2\) in the file and \(3, 2\)"):
        make(folder, outputs=3).resume_or_load("")
    # To begin with its weights is something else.
    make(folder, outputs=3).resume_or_load(str(folder / "model_9.pth"), resume=False)
    assert make(folder).resume_or_load("")["iteration"] == 9


def test_nothing_whole_is_left(folder):
    for file in folder.glob("*.pth"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"model_9.pth cannot be read") as error:
        make(folder).resume_or_load("")
    assert "newest other" not in str(error.value)
