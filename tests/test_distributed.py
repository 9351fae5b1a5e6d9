"""
DistributedDataParallel on two processes that have different things to learn from.
"""

import pytest
import torch
from conftest import (
    FAMILIES,
    build_heads,
    devices,
    has_sigmoid_loss,
    heads_config,
    make_features,
    make_proposals,
    make_targets,
)
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel


class RoIHeadsOnFeatures(torch.nn.Module):
    """
    The losses of some heads as a model of its own, behind a layer that takes part in every step.
    """

    def __init__(self, heads):
        super().__init__()
        self.backbone = torch.nn.Conv2d(8, 8, 1)
        self.heads = heads

    def forward(self, features, proposals, targets):
        features = {name: self.backbone(x) for name, x in features.items()}
        return self.heads(None, features, proposals, targets)[1]


def train(rank, options, objects, device):
    heads = build_heads(heads_config(MODEL__OHEM__MINING_BATCH_SIZE=8, **options), seed=rank)
    model = RoIHeadsOnFeatures(heads).to(device)
    model = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step, count in enumerate(objects[rank]):
        # Two images with `count` objects and ten times as many proposals each.
        targets = make_targets([count, count], seed=step, device=device)
        proposals = make_proposals(targets, [10 * count] * 2, seed=step)
        with EventStorage():
            losses = model(make_features(2, seed=step, device=device), proposals, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    return {name: p.detach().cpu() for name, p in model.module.named_parameters()}


def check_training(run_in_two_processes, options, objects, device="cpu"):
    """
    Two processes train without waiting for each other forever, and end with the same parameters,
    all of them changed.
    """
    results = run_in_two_processes(train, options, objects, device)
    first, second = results[0], results[1]
    initial_heads = build_heads(heads_config(**options), seed=0)
    initial = dict(RoIHeadsOnFeatures(initial_heads).named_parameters())
    for name, p in first.items():
        assert torch.equal(p, second[name]), name
        if name.startswith("heads"):
            assert not torch.equal(p, initial[name]), name


@devices
@pytest.mark.parametrize(
    "options",
    [
        *(pytest.param(options, id=family) for family, options in FAMILIES.items()),
        pytest.param({"MODEL__OHEM__POOL_SIZE": 20}, id="pool"),
        pytest.param(
            {"MODEL__OHEM__POOL_SIZE": 20, "MODEL__OHEM__FOREGROUND": "sampled"},
            id="background mining",
        ),
        pytest.param(
            {"MODEL__ROI_BOX_HEAD__USE_SIGMOID_CE": True},
            marks=has_sigmoid_loss,
            id="sigmoid",
        ),
    ],
)
def test_one_rank_has_nothing_to_learn_from(run_in_two_processes, options, device):
    # Not an object nor a proposal, and in the last step none on either.
    check_training(run_in_two_processes, options, [[3, 3, 0], [0, 0, 0]], device)


def test_synchronized_batch_norm_with_different_numbers_of_rois(run_in_two_processes):
    # 9 mining batches in one process and 3 in the other: were batch norm synchronized in each,
    # the first would wait for the second.
    options = {
        "MODEL__ROI_BOX_HEAD__NUM_CONV": 1,
        "MODEL__ROI_BOX_HEAD__CONV_DIM": 8,
        "MODEL__ROI_BOX_HEAD__NORM": "naiveSyncBN",
    }
    check_training(run_in_two_processes, options, objects=[[3, 3], [1, 1]])
