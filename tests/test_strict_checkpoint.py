import pytest
import torch
from torch import nn

from ohem_d2.checkpoint import StrictCheckpointer
from ohem_d2.utils import InputError


def save(path, model):
    torch.save({"model": model.state_dict()}, path)
    return str(path)


def model(outputs=2, norm=True):
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4) if norm else nn.ReLU(), nn.Linear(4, outputs)
    )


def test_weights_that_match(tmp_path):
    theirs, ours = model(), model()
    StrictCheckpointer(ours).load(save(tmp_path / "x.pth", theirs))
    assert all(torch.equal(x, theirs.state_dict()[k]) for k, x in ours.state_dict().items())
    # More than the model has: a detector may be evaluated without its mask head.
    StrictCheckpointer(model(norm=False)).load(save(tmp_path / "x.pth", theirs))
    # Old files do not count the batches.
    state = theirs.state_dict()
    del state["1.num_batches_tracked"]
    torch.save({"model": state}, tmp_path / "old.pth")
    StrictCheckpointer(ours).load(str(tmp_path / "old.pth"))
    StrictCheckpointer(ours).load("")  # random weights, if that is what is asked for


def test_weights_that_do_not_match(tmp_path):
    other_classes = save(tmp_path / "x.pth", model(outputs=5))
    with pytest.raises(
        InputError,
        match=r"x.pth do not fit the model .*: 2.weight has shape \(5, 4\) in the file and "
        r"\(2, 4\) in the model \(and 1 more\). Use the config",
    ):
        StrictCheckpointer(model()).load(other_classes)
    backbone_alone = save(tmp_path / "y.pth", nn.Sequential(nn.Linear(3, 4)))
    with pytest.raises(InputError, match=r"1.weight is not in the file \(and 5 more\)"):
        StrictCheckpointer(model()).load(backbone_alone)


def test_a_file_without_weights(tmp_path):
    (tmp_path / "x.pth").write_text("an html page")
    with pytest.raises(InputError, match=r"x.pth cannot be read: \w+: "):
        StrictCheckpointer(model()).load(str(tmp_path / "x.pth"))
