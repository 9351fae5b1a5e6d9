import copy
import math

import pytest
import torch
from conftest import devices, load_config
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from ohem_d2.engine import AccumulatingTrainer

pytestmark = pytest.mark.slow

OPTIONS = (
    *("MODEL.OHEM.WARMUP_ITERS", 0),
    # Statistics of a batch are those of a pass.
    *("MODEL.RESNETS.NORM", "FrozenBN"),
    *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5),  # so that it clips
)


def make_images(count):
    generator = torch.Generator().manual_seed(0)
    images = []
    for _ in range(count):
        start = torch.rand(3, 2, generator=generator) * 60
        boxes = torch.cat([start, start + 20 + torch.rand(3, 2, generator=generator) * 40], dim=1)
        images.append(
            {
                "image": (torch.rand(3, 128, 128, generator=generator) * 255).byte(),
                "instances": Instances(
                    (128, 128), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([0, 1, 2])
                ),
            }
        )
    return images


def run(make_trainer, images, steps=2, device="cpu"):
    # With the paper's OHEM, because a random sample of RoIs depends on what was drawn before.
    cfg = load_config("demo/faster_rcnn_R_18_ohem.yaml", *OPTIONS, "MODEL.DEVICE", device)
    torch.manual_seed(0)
    model = build_model(cfg)
    before = copy.deepcopy(model.state_dict())
    trainer = make_trainer(model, [images] * steps, build_optimizer(cfg, model))
    with EventStorage(0) as storage:
        for trainer.iter in range(steps):
            torch.manual_seed(trainer.iter)  # of the samples
            trainer.run_step()
            storage.step()
        losses = {k: v.values()[-1][0] for k, v in storage.histories().items() if "loss" in k}
    return before, model.state_dict(), losses


@pytest.mark.parametrize("num_images, passes", [(2, 2), (3, 2), (3, 8)])
def test_same_as_a_step_of_all_images(num_images, passes):
    images = make_images(num_images)
    before, expected, expected_losses = run(SimpleTrainer, images)
    sizes = []

    def make_trainer(model, *args):
        model.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
        return AccumulatingTrainer(model, *args, passes)

    _, found, losses = run(make_trainer, images)
    assert max(sizes) == -(-num_images // passes) and sum(sizes) == 2 * num_images
    changed = 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
        changed += not torch.equal(value, before[name])
    assert changed > 20
    for name in ("total_loss", "loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"):
        assert losses[name] == pytest.approx(expected_losses[name], rel=1e-4), name


@devices
def test_mixed_precision(device):
    dtypes, trainers = [], []

    def make_trainer(model, *args):
        model.roi_heads.box_predictor.cls_score.register_forward_hook(
            lambda _module, _inputs, output: dtypes.append(output.dtype)
        )
        trainers.append(AccumulatingTrainer(model, *args, passes=2, amp=True))
        # PyTorch's initial scale overflows, which skips the first steps.
        trainers[0].grad_scaler = torch.amp.GradScaler(device, init_scale=16.0)
        return trainers[0]

    before, found, losses = run(make_trainer, make_images(3), device=device)
    half = torch.float16 if device == "cuda" else torch.bfloat16
    assert set(dtypes) == {half}
    assert all(math.isfinite(x) and x > 0 for x in losses.values())
    assert all(x.isfinite().all() for x in found.values())
    assert sum(not torch.equal(x, before[name]) for name, x in found.items()) > 20
    assert trainers[0].state_dict()["grad_scaler"]["scale"] == 16.0  # no step was skipped
