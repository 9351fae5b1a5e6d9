import copy

import numpy as np
import pytest
import torch
from conftest import KEYPOINT_HEAD, MASK_HEAD, devices, load_config
from detectron2 import modeling
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from oracles import slow_box_voting
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ohem_d2.modeling import build_test_time_model
from ohem_d2.modeling.roi_heads.box_branch import box_predictors
from ohem_d2.modeling.test_time import augmentation as module
from ohem_d2.modeling.test_time.augmentation import (
    DatasetMapperTTA,
    GeneralizedRCNNWithTTA,
    ImageTooLargeError,
)

NUM_CLASSES = 4
HEIGHT, WIDTH = 80, 112  # of the image's file
# What makes the demo's Faster R-CNN one with other heads.
MODELS = {
    "StandardROIHeads": {"MODEL__ROI_HEADS__NAME": "OHEMROIHeads"},
    "detectron2's own": {"MODEL__ROI_HEADS__NAME": "StandardROIHeads"},
    "Res5ROIHeads": {
        "MODEL__ROI_HEADS__NAME": "OHEMRes5ROIHeads",
        "MODEL__RESNETS__OUT_FEATURES": ["res4"],
        "MODEL__RPN__IN_FEATURES": ["res4"],
        "MODEL__ROI_HEADS__IN_FEATURES": ["res4"],
    },
    "CascadeROIHeads": {
        "MODEL__ROI_HEADS__NAME": "OHEMCascadeROIHeads",
        "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True,
    },
    "class-agnostic": {
        "MODEL__ROI_HEADS__NAME": "OHEMROIHeads",
        "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True,
    },
    "precomputed proposals": {
        "MODEL__ROI_HEADS__NAME": "OHEMROIHeads",
        "MODEL__LOAD_PROPOSALS": True,
        "MODEL__PROPOSAL_GENERATOR__NAME": "PrecomputedProposals",
    },
}
models = pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
AUG = {
    "TEST__AUG__ENABLED": True,
    "TEST__AUG__MIN_SIZES": (64, 100),
    "TEST__AUG__MAX_SIZE": 300,
    "TEST__AUG__FLIP": True,
}
VOTING = {
    "TEST__BOX_VOTING__ENABLED": True,
    "TEST__ITERATIVE_BBOX__ENABLED": True,
    "TEST__ITERATIVE_BBOX__SCORE_THRESH": 0.2,
}


def build(options, device="cpu"):
    pairs = {
        "MODEL__DEVICE": device,
        "MODEL__RPN__POST_NMS_TOPK_TEST": 20,
        "INPUT__MIN_SIZE_TEST": 64,
        "INPUT__MAX_SIZE_TEST": 300,
        "MODEL__ROI_BOX_HEAD__FC_DIM": 16,
        **options,
    }
    options = [x for k, v in pairs.items() for x in (k.replace("__", "."), v)]
    cfg = load_config("demo/faster_rcnn_R_18.yaml", *options)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    # So that scores differ, and boxes move, by something like a fifth of their size.
    for predictor in box_predictors(model.roi_heads):
        inputs = []
        hook = predictor.register_forward_pre_hook(lambda _, x, inputs=inputs: inputs.extend(x))
        with torch.no_grad():
            model([image_of_a_file()])
        hook.remove()
        length = inputs[0].flatten(1).norm(dim=1).mean()
        nn.init.normal_(predictor.cls_score.weight, std=2 / length)
        nn.init.normal_(predictor.bbox_pred.weight, std=1 / length)
    return cfg, model


def image_of_a_file():
    """
    The model's input for an image in the size of its file, with proposals.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    image = T.ResizeTransform(6, 8, HEIGHT, WIDTH).apply_image(coarse).copy()
    corners = rng.uniform(0, 1, (20, 2)) * (WIDTH - 40, HEIGHT - 40)
    boxes = np.concatenate([corners, corners + rng.uniform(10, 40, (20, 2))], axis=1)
    proposals = Instances(
        (HEIGHT, WIDTH),
        proposal_boxes=Boxes(torch.from_numpy(boxes).float()),
        objectness_logits=torch.arange(20, 0, -1).float(),
    )
    return {
        "image": torch.from_numpy(image).permute(2, 0, 1),
        "height": HEIGHT,
        "width": WIDTH,
        "proposals": proposals,
    }


def resized(record, size, flip=False):
    """
    The same as the test loader gives it in this size, and its mirror image.
    """
    image = record["image"].permute(1, 2, 0).numpy()
    resize = T.ResizeShortestEdge(size, 300).get_transform(image)
    image = torch.from_numpy(resize.apply_image(image).copy()).permute(2, 0, 1)
    height, width = image.shape[1:]
    scale = torch.tensor([width / WIDTH, height / HEIGHT] * 2)
    boxes = record["proposals"].proposal_boxes.tensor * scale
    if flip:
        image = image.flip(dims=[2])
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    proposals = Instances((height, width), **record["proposals"].get_fields())
    proposals.proposal_boxes = Boxes(boxes)
    return {**record, "image": image, "proposals": proposals}


def assert_same(actual, expected, atol=0.01):
    assert len(actual) == len(expected) and actual.image_size == expected.image_size
    assert torch.equal(actual.pred_classes, expected.pred_classes)
    torch.testing.assert_close(actual.scores, expected.scores, rtol=0, atol=1e-4)
    boxes = actual.pred_boxes.tensor, expected.pred_boxes.tensor
    torch.testing.assert_close(*boxes, rtol=0, atol=atol)


@devices
@models
@torch.no_grad()
def test_one_scale_is_the_plain_model(options, device):
    cfg, model = build(
        {**options, **AUG, "TEST__AUG__MIN_SIZES": (64,), "TEST__AUG__FLIP": False}, device
    )
    record = image_of_a_file()
    expected = model([resized(record, 64)])[0]["instances"]
    assert len(expected) > 10
    assert_same(build_test_time_model(cfg, model)([record])[0]["instances"], expected)


@models
@torch.no_grad()
def test_masks_of_one_scale_are_those_of_the_plain_model(options):
    cfg, model = build(
        {
            **options,
            **MASK_HEAD,
            **AUG,
            "TEST__AUG__MIN_SIZES": (64,),
            "TEST__AUG__FLIP": False,
        }
    )
    record = image_of_a_file()
    expected = model([resized(record, 64)])[0]["instances"]
    actual = build_test_time_model(cfg, model)([record])[0]["instances"]
    assert_same(actual, expected)
    # Its boxes differ in the last digits.
    assert (actual.pred_masks != expected.pred_masks).float().mean() < 1e-3


@pytest.mark.parametrize(
    "options, voting",
    [*((x, True) for x in MODELS.values()), (MODELS["detectron2's own"], False)],
    ids=[*MODELS, "without voting"],
)
@torch.no_grad()
def test_scales_and_mirror_images_are_merged_at_once(options, voting):
    """
    Against the model's own predictions on images that are resized, mirrored and mapped back by
    hand, NMS and voting one pair of boxes at a time.
    """
    cfg, model = build(
        {**options, **AUG, **({"TEST__BOX_VOTING__ENABLED": True} if voting else {})}
    )
    record = image_of_a_file()
    everything = copy.deepcopy(model)
    for predictor in box_predictors(everything.roi_heads):
        predictor.test_nms_thresh, predictor.test_topk_per_image = 1.0, -1

    rows = []
    for size in (64, 100):
        for flip in (False, True):
            augmented = resized(record, size, flip)
            found = everything.inference([augmented], do_postprocess=False)[0]
            height, width = augmented["image"].shape[1:]
            x0, y0, x1, y1 = found.pred_boxes.tensor.double().T
            if flip:
                x0, x1 = width - x1, width - x0
            x0, x1, y0, y1 = (
                *(x * WIDTH / width for x in (x0, x1)),
                y0 * HEIGHT / height,
                (y1 * HEIGHT / height),
            )
            rows.append(torch.stack([x0, y0, x1, y1, found.scores, found.pred_classes], dim=1))
    rows = torch.cat(rows).numpy()
    boxes, scores, classes = rows[:, :4], rows[:, 4], rows[:, 5].astype(int)
    # Without voting, a box is its only voter.
    voted = slow_box_voting(boxes, scores, classes, 0.5, 0.5 if voting else 1.1, "ID", 1.0)
    chosen = sorted(voted, key=lambda i: -scores[i])[:100]

    actual = build_test_time_model(cfg, model)([record])[0]["instances"]
    assert 20 < len(chosen) < len(rows) * 0.8
    assert_same(
        actual,
        Instances(
            (HEIGHT, WIDTH),
            pred_boxes=Boxes(np.float32([voted[i][0] for i in chosen])),
            scores=torch.tensor(scores[chosen]).float(),
            pred_classes=torch.tensor(classes[chosen]),
        ),
    )


class DeviceCopies(TorchFunctionMode):
    """
    Records the calls that copy a tensor to another device, also on a CPU, where they copy nothing.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (Tensor.cpu, Tensor.cuda, Tensor.to, Tensor.tolist, Tensor.item):
            self.calls.append(func)
        return func(*args, **(kwargs or {}))


@devices
@pytest.mark.parametrize("min_sizes", [(64,), (64, 80, 100)])
@torch.no_grad()
def test_boxes_are_mapped_back_where_they_are(min_sizes, device, monkeypatch):
    """
    To the same bits as by detectron2, which copies those of each image to the CPU and back.
    """
    cfg, model = build(
        {**MODELS["StandardROIHeads"], **AUG, "TEST__AUG__MIN_SIZES": min_sizes}, device
    )
    tta = GeneralizedRCNNWithTTA(cfg, model)
    inputs, transforms = tta._get_augmented_inputs(image_of_a_file())
    outputs = tta._batch_inference(inputs)
    assert min(map(len, outputs)) > 10
    outputs[1] = outputs[1][:0]  # nothing is found in one of them
    monkeypatch.setattr(tta, "_batch_inference", lambda _: outputs)

    loop = modeling.GeneralizedRCNNWithTTA._get_augmented_boxes
    with DeviceCopies() as in_loop:
        boxes, scores, classes = loop(tta, inputs, transforms)
    with DeviceCopies() as mapped:
        actual = tta._get_augmented_boxes(inputs, transforms)
    assert torch.equal(actual[0], boxes) and actual[0].dtype == torch.float32
    assert torch.equal(actual[1], torch.stack(scores))
    assert torch.equal(actual[2], torch.stack(classes))
    assert in_loop.calls == [Tensor.cpu, Tensor.to] * 2 * len(min_sizes)
    assert mapped.calls == []


class Shift(T.ResizeTransform):
    def apply_box(self, box):
        return super().apply_box(box) + 1


@devices
@pytest.mark.parametrize(
    "transform",
    [
        T.NoOpTransform(),
        T.TransformList([T.HFlipTransform(500), T.ResizeTransform(375, 500, 601, 801)]),
        # Those that only another mapper has.
        T.RotationTransform(375, 500, 30),
        Shift(375, 500, 601, 801),
    ],
    ids=lambda x: type(x).__name__,
)
def test_boxes_are_mapped_as_in_numpy(transform, device):
    corners = torch.rand(1000, 2, 2, generator=torch.Generator().manual_seed(0)) * 500
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    expected = torch.from_numpy(transform.apply_box(boxes.numpy().copy())).float()
    given = boxes.to(device, copy=True)
    mapped = module._transform(given, transform)
    assert mapped.device == given.device and torch.equal(mapped.cpu(), expected)
    assert torch.equal(given.cpu(), boxes)  # as they were


def test_proposals_by_hand():
    # An image of 100 x 200 that a loader has made of one of 50 x 100. A box of the input image is
    # doubled by the scale of 200, and mirrored in a width of 400.
    proposals = Instances(
        (100, 200),
        proposal_boxes=Boxes(torch.tensor([[10, 20, 50, 60.0]])),
        objectness_logits=torch.tensor([3.0]),
    )
    image = torch.zeros(3, 100, 200, dtype=torch.uint8)
    record = {"image": image, "height": 50, "width": 100, "proposals": proposals}
    straight, mirrored = DatasetMapperTTA([200], 1000, True)(record)
    for augmented, box in [(straight, [20, 40, 100, 120]), (mirrored, [300, 40, 380, 120])]:
        assert augmented["image"].shape == (3, 200, 400)
        assert augmented["proposals"].image_size == (200, 400)
        assert augmented["proposals"].proposal_boxes.tensor.tolist() == [box]
        assert augmented["proposals"].objectness_logits.tolist() == [3.0]
        # Back to the file.
        back = augmented["transforms"].inverse().apply_box(np.float32([box]))
        np.testing.assert_allclose(back, [[5, 10, 25, 30]], atol=1e-4)
    assert record["proposals"] is proposals  # as it was
    assert proposals.proposal_boxes.tensor.tolist() == [[10, 20, 50, 60]]


def test_boxes_that_have_no_area_in_the_image_are_left_out():
    cfg, model = build({**MODELS["StandardROIHeads"], **AUG})
    boxes = torch.tensor([[0, 0, 10, 10], [WIDTH + 5, 0, WIDTH + 20, 10], [100, 0, WIDTH + 9, 5.0]])
    found = GeneralizedRCNNWithTTA(cfg, model)._merge_detections(
        boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.long), (HEIGHT, WIDTH)
    )
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 10, 10], [100, 0, WIDTH, 5]]


@models
@torch.no_grad()
def test_everything_at_once(options):
    cfg, model = build({**options, **AUG, **VOTING})
    record = image_of_a_file()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    plain = model([resized(record, 64)])[0]["instances"]
    output = build_test_time_model(cfg, model)([record, record])
    assert_same(output[0]["instances"], output[1]["instances"], atol=0)
    assert len(output[0]["instances"]) > 0
    # The model is as it was.
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert_same(model([resized(record, 64)])[0]["instances"], plain, atol=0)


@torch.no_grad()
def test_without_augmentation_images_are_taken_as_they_come():
    cfg, model = build({**MODELS["StandardROIHeads"], **KEYPOINT_HEAD, **VOTING})
    # As it is, random heatmaps overflow.
    nn.init.normal_(model.roi_heads.keypoint_head.score_lowres.weight, std=0.01)
    records = [resized(image_of_a_file(), 64), resized(image_of_a_file(), 100)]
    output = build_test_time_model(cfg, model)(records)
    for x in output:
        instances = x["instances"]
        assert instances.image_size == (HEIGHT, WIDTH) and instances.has("pred_keypoints")
    assert isinstance(build_test_time_model(cfg, model), type(model))
    found, plain = output[0]["instances"], model(records)[0]["instances"]
    assert len(found) != len(plain) or not torch.equal(found.scores, plain.scores)


def test_nothing_enabled():
    cfg, model = build(MODELS["detectron2's own"])
    assert build_test_time_model(cfg, model) is model


def test_only_for_models_with_rois():
    cfg, model = build(VOTING)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    with pytest.raises(ValueError, match="require a GeneralizedRCNN .*, not RetinaNet"):
        build_test_time_model(cfg, model)


# As PyTorch raises them, on a GPU and on a CPU.
ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"
    ),
]


def small_memory(num_pixels, error=ERRORS[0]):
    """
    A model with two scales and their mirror images, of 64 x 90 and 100 x 140 pixels, and memory for
    so many pixels at once.

    Returns:
        the model, what it gives with enough memory, and the list to which it appends how many
        images of which shorter side it is about to forward
    """
    cfg, model = build({**MODELS["StandardROIHeads"], **AUG})
    tta = GeneralizedRCNNWithTTA(cfg, model)
    expected = GeneralizedRCNNWithTTA(cfg, model)([image_of_a_file()])[0]["instances"]
    batches = []

    def allocate(module, inputs):
        batches.append((len(inputs[0]), min(inputs[0].shape[2:])))
        if inputs[0].numel() / 3 > num_pixels:
            raise error

    model.backbone.register_forward_pre_hook(allocate)
    return tta, expected, batches


@pytest.mark.parametrize("error", ERRORS)
@torch.no_grad()
def test_smaller_batches_if_the_memory_is_too_small(error, monkeypatch):
    warnings = []
    monkeypatch.setattr(module.logger, "warning", warnings.append)
    tta, expected, batches = small_memory(20_000, error)
    assert_same(tta([image_of_a_file()])[0]["instances"], expected)
    # An image and its mirror image together, and never two scales. Those of 100 x 140 do not fit
    # in twos, and from then on nothing is forwarded in twos.
    assert batches == [(2, 64), (2, 100), (1, 100), (1, 100)]
    assert warnings == [
        "2 images of 100 x 140 pixels do not fit into memory at once. Continuing with batches of 1."
    ]
    batches.clear()
    assert_same(tta([image_of_a_file()])[0]["instances"], expected)
    assert batches == [(1, 64), (1, 64), (1, 100), (1, 100)]


@torch.no_grad()
def test_a_scale_that_does_not_fit_at_all():
    tta, _, _ = small_memory(10_000)
    with pytest.raises(
        ImageTooLargeError,
        match=r"^An image of 100 x 140 pixels does not fit into memory. The largest that fit had "
        r"64 x 90: remove the larger scales from TEST.AUG.MIN_SIZES, or lower TEST.AUG.MAX_SIZE.",
    ):
        tta([image_of_a_file()])


@torch.no_grad()
def test_other_errors_are_not_taken_for_a_lack_of_memory():
    tta, _, batches = small_memory(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        tta([image_of_a_file()])
    assert len(batches) == 1
