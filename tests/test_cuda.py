"""
What matters on a GPU: training in mixed precision, and how often a step waits for the GPU. As far
as a CPU has it, it runs there too.
"""

import math

import pytest
import torch
from conftest import (
    FAMILIES,
    NUM_CLASSES,
    build_heads,
    devices,
    families,
    heads_config,
    make_features,
    make_inputs,
    make_proposals,
    make_targets,
    needs_cuda,
)
from detectron2.utils.events import EventStorage
from torch.optim import SGD

from benchmarks.gpu.syncs import count_syncs, mine


@devices
@families
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_training_in_mixed_precision(device, family, dtype):
    heads = build_heads(heads_config(**FAMILIES[family]), device=device)
    before = {name: p.detach().clone() for name, p in heads.named_parameters()}
    optimizer = SGD(heads.parameters(), lr=0.01)
    # bfloat16 has float32's range and needs no scaler. PyTorch's initial scale is one that
    # overflows, so that it finds the largest that does not.
    scaler = torch.amp.GradScaler(device, init_scale=16.0, enabled=dtype == torch.float16)
    mined = []
    select = heads.select_hard_rois
    heads.select_hard_rois = lambda *args: mined.append(select(*args)) or mined[-1]
    for step in range(3):
        _, proposals, targets = make_inputs(device=device)
        # A backbone's features have the precision of its last convolution.
        features = {k: x.detach().to(dtype) for k, x in make_features(3, step, device).items()}
        with EventStorage(), torch.autocast(device, dtype):
            _, losses = heads(None, features, proposals, targets)
        for name, loss in losses.items():
            assert loss.isfinite(), name
        check_rois(mined[0], proposals, targets)  # of a cascade, the first stage's
        mined.clear()

        optimizer.zero_grad()
        scaler.scale(sum(losses.values())).backward()
        scaler.unscale_(optimizer)
        for name, p in heads.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == (16.0 if dtype == torch.float16 else 1.0)  # no step was skipped
    for name, p in heads.named_parameters():
        assert not torch.equal(p, before[name]), name


def check_rois(kept, proposals, targets):
    """
    What is trained on are different RoIs of the image, with a label and a finite loss.
    """
    for kept_per_image, proposals_per_image, targets_per_image in zip(
        kept, proposals, targets, strict=True
    ):
        boxes = kept_per_image.proposal_boxes.tensor
        given = [proposals_per_image.proposal_boxes.tensor, targets_per_image.gt_boxes.tensor]
        assert len(boxes) == len(boxes.unique(dim=0)) == 16
        assert (boxes[:, None] == torch.cat(given)).all(dim=2).any(dim=1).all()
        assert ((kept_per_image.gt_classes >= 0) & (kept_per_image.gt_classes <= NUM_CLASSES)).all()
        assert kept_per_image.loss_cls.isfinite().all()
        assert kept_per_image.loss_box_reg.isfinite().all()


# At most, how often mining waits for the GPU. In a cascade, each stage does.
PER_IMAGE = (
    1  # the matcher asserts that no IoU is negative
    + 2  # a cascade asserts that predicted boxes are finite, and removes empty ones
    + 2  # NMS, of which older torchvision does a part on the CPU
    + 1  # older PyTorch copies the value that marks the survivors to the GPU
    + 2  # the pool: the indices of foreground and background
    + 3  # sampled foreground: the same, and all background
)
PER_BATCH = (  # of MINING_BATCH_SIZE RoIs
    2  # the RoIs of each of the two feature maps
    + 2  # upstream detectron2 sends the number of RoIs of each image, and repeats by it
    + 1  # the indices of the foreground
    + 1  # get_deltas asserts that the RoIs have a width
)
PER_STEP = 1  # what is logged


@devices
@families
@pytest.mark.parametrize("foreground", ["mined", "sampled"])
@pytest.mark.parametrize("pool_size", [0, 40])
def test_how_often_mining_waits_for_the_gpu(device, family, foreground, pool_size, record_property):
    options = {"MODEL__OHEM__FOREGROUND": foreground, "MODEL__OHEM__POOL_SIZE": pool_size}
    heads = build_heads(heads_config(**FAMILIES[family], **options), device=device)
    objects = (3, 2)
    targets = make_targets(objects, device=device)
    features = make_features(2, device=device)
    stages = 3 if family == "CascadeROIHeads" else 1

    def count(num_proposals, batch_size):
        heads.ohem_mining_batch_size = batch_size
        proposals = make_proposals(targets, [num_proposals] * 2)
        counts = count_syncs(lambda: mine(heads, features, proposals, targets), device)
        record_property(f"{num_proposals} proposals, {batch_size} at a time", str(dict(counts)))
        return counts.total()

    at_once = count(200, 0)
    assert 0 < at_once <= stages * (2 * PER_IMAGE + PER_BATCH + PER_STEP)
    # Not with the number of RoIs, only with the number of batches.
    assert count(50, 0) == at_once
    num_rois = 2 * pool_size or 2 * 200 + sum(objects)
    batches = math.ceil(num_rois / 20)
    assert at_once < count(200, 20) <= at_once + stages * (batches - 1) * PER_BATCH


@devices
def test_syncs_are_counted(device):
    x = torch.arange(4.0, device=device)

    def call():
        x[x > 5] = 1  # a fill, which does not wait
        x[x > 1].sum().item()

    counts = count_syncs(call, device)
    (place,) = counts
    assert counts[place] == 2 and place.startswith("test_cuda.py:")
    assert place.endswith(" call (test_syncs_are_counted)")


@needs_cuda
def test_syncs_of_operators_are_counted():
    x = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]], device="cuda")
    scores = x[:, 3].clone()
    counts = count_syncs(lambda: torch.ops.torchvision.nms(x, scores, 0.5), "cuda")
    assert counts.total() >= 1
