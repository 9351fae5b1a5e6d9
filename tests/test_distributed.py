"""
DistributedDataParallel on two processes that have different things to learn from.
"""

import os
import subprocess
import sys

import pytest
import torch
from conftest import (
    FAMILIES,
    ROOT,
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

from ohem_d2.structures import TargetsWithIgnoreRegions


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


def train(rank, options, objects, device, proposals_per_object=10, are_ignored=False):
    heads = build_heads(heads_config(MODEL__OHEM__MINING_BATCH_SIZE=8, **options), seed=rank)
    model = RoIHeadsOnFeatures(heads).to(device)
    model = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step, count in enumerate(objects[rank]):
        # Two images with `count` objects and, by default, ten times as many proposals each.
        targets = make_targets([count, count], seed=step, device=device)
        proposals = make_proposals(targets, [proposals_per_object * count] * 2, seed=step)
        if are_ignored:
            targets = [as_ignore_regions(x) for x in targets]
        with EventStorage():
            losses = model(make_features(2, seed=step, device=device), proposals, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    return {name: p.detach().cpu() for name, p in model.module.named_parameters()}


def as_ignore_regions(targets):
    fields = {k: v[:0] for k, v in targets.get_fields().items()}
    return TargetsWithIgnoreRegions(targets.image_size, targets.gt_boxes, **fields)


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


# What the second process has: objects in an image, and arguments of train().
CASES = {
    "no objects": (0, {}),
    "no proposals": (3, {"proposals_per_object": 0}),
    "ignore regions": (3, {"are_ignored": True}),
}


def train_for_long(rank, case):
    """
    A hundred steps, in which the second process has nothing, or nothing to learn from.
    """
    count, options = CASES[case] if rank else (3, {})
    return train(0, {}, [[count] * 100], "cpu", **options)


@pytest.mark.parametrize("case", CASES)
def test_a_hundred_steps(run_in_two_processes, case):
    results = run_in_two_processes(train_for_long, case)
    assert all(torch.equal(p, results[1][name]) for name, p in results[0].items())
    assert all(p.isfinite().all() for p in results[0].values())


SCRIPT = """
import sys

import torch.distributed as dist
import torch.multiprocessing as mp

from ohem_d2.commands.command_line import exit_on_error
from ohem_d2.utils import InputError


def work(rank, file):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    with exit_on_error():
        if rank == 1:
            raise InputError("no such thing")
        dist.barrier()  # would wait for half an hour


if __name__ == "__main__":
    mp.spawn(work, nprocs=2, args=(sys.argv[1],))
"""


def test_an_error_in_one_process_ends_the_other(tmp_path):
    # As detectron2's launch() starts them.
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.run(
        [sys.executable, tmp_path / "script.py", tmp_path / "store"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert process.returncode and "script.py: no such thing" in process.stderr
