"""
Configs, and small ROI heads and RoIs for the tests of the method.
"""

import faulthandler
import logging
import multiprocessing as mp
import os
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from pathlib import Path

# One thread per process, also in those that tests start: the tensors of tests are small, and the
# tests themselves run in parallel. PyTorch and OpenCV read these when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage
from hypothesis import settings
from torch import nn

from ohem_d2 import add_ohem_config
from ohem_d2.data.datasets.clutter import register_clutter
from ohem_d2.modeling.roi_heads.box_branch import box_predictors

# So that a failed assertion in them shows its values, as in tests.
pytest.register_assert_rewrite("oracles", "pages")

# On a busy machine, an example may take any time.
settings.register_profile("ohem_d2", deadline=None)
settings.load_profile("ohem_d2")

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
NUM_CLASSES = 3
IMAGE_SIZE = (64, 96)
INPUT_SHAPE = {
    "p2": ShapeSpec(channels=8, stride=4),
    "p3": ShapeSpec(channels=8, stride=8),
}

# Tests that use one of these are slow: each opens a browser or starts processes.
SLOW_FIXTURES = {"open_page", "run_in_two_processes"}


def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)


LOGGERS = ("detectron2", "fvcore", "ohem_d2")


@pytest.fixture(scope="session", autouse=True)
def cache_of_downloads(tmp_path_factory):
    """
    Leaves that of the user alone.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FVCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_loggers(monkeypatch):
    """
    The handlers that a test sets up do not log what later tests do.
    """
    for name in LOGGERS:
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])

has_sigmoid_loss = pytest.mark.skipif(
    not hasattr(FastRCNNOutputLayers, "sigmoid_cross_entropy_loss"),
    reason="this detectron2 has no sigmoid loss",
)


def load_config(file, *options):
    """
    Args:
        file (str): in configs/
        options: keys and values in turn
    """
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.merge_from_file(str(CONFIGS / file))
    cfg.merge_from_list(options)
    return cfg


def flat(cfg, prefix=""):
    """
    Yields:
        keys, such as "MODEL.OHEM.NMS_THRESH", and values
    """
    for key, value in cfg.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def heads_config(**options):
    """
    A config of small heads with OHEM that mines from the first iteration.

    Args:
        options: keys with "__" for ".", such as MODEL__OHEM__NMS_THRESH=0.5.
    """
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NAME = "OHEMROIHeads"
    cfg.MODEL.OHEM.WARMUP_ITERS = 0
    cfg.MODEL.ROI_HEADS.IN_FEATURES = list(INPUT_SHAPE)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
    for key, value in options.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


# OHEM's heads for each of detectron2's, with the options that make them small.
FAMILIES = {
    "StandardROIHeads": {"MODEL__ROI_HEADS__NAME": "OHEMROIHeads"},
    "Res5ROIHeads": {
        "MODEL__ROI_HEADS__NAME": "OHEMRes5ROIHeads",
        "MODEL__ROI_HEADS__IN_FEATURES": ["p3"],
        "MODEL__RESNETS__RES2_OUT_CHANNELS": 2,  # 16 after res5, half as many before
        "MODEL__RESNETS__WIDTH_PER_GROUP": 1,
        "MODEL__RESNETS__NORM": "BN",
    },
    "CascadeROIHeads": {
        "MODEL__ROI_HEADS__NAME": "OHEMCascadeROIHeads",
        "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True,
    },
}
families = pytest.mark.parametrize("family", FAMILIES)


def build_heads(cfg, seed=0, device="cpu"):
    torch.manual_seed(seed)
    heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, INPUT_SHAPE)
    # Far from the tiny initial weights of the predictors, so that RoIs differ in their loss.
    for predictor in box_predictors(heads):
        for layer in [predictor.cls_score, predictor.bbox_pred]:
            torch.nn.init.normal_(layer.weight, std=0.5)
    return heads.to(device).train()


def randomized(model, seed=0):
    """
    Change all initial values, so that a lost tensor is noticed.
    """
    generator = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            for x in (m.weight.data, m.running_var):
                x.uniform_(0.5, 1, generator=generator)
            for x in (m.bias.data, m.running_mean):
                x.normal_(std=0.3, generator=generator)
        elif isinstance(m, (nn.Conv2d, nn.Linear)) and m.bias is not None:
            m.bias.data.normal_(std=0.3, generator=generator)
    return model.eval()


def random_boxes(n, generator):
    height, width = IMAGE_SIZE
    start = torch.rand(n, 2, generator=generator) * torch.tensor([width - 12.0, height - 12.0])
    size = 6 + torch.rand(n, 2, generator=generator) * 30
    return torch.cat([start, (start + size).minimum(torch.tensor([width, height]))], dim=1)


def make_targets(counts, seed=0, device="cpu"):
    """
    Random objects: `counts[i]` of them in image i.
    """
    generator = torch.Generator().manual_seed(seed)
    return [
        Instances(
            IMAGE_SIZE,
            gt_boxes=Boxes(random_boxes(n, generator)),
            gt_classes=torch.randint(NUM_CLASSES, (n,), generator=generator),
        ).to(device)
        for n in counts
    ]


# Options that turn on mask and keypoint heads, small.
MASK_HEAD = {
    "MODEL__MASK_ON": True,
    "MODEL__ROI_MASK_HEAD__NAME": "MaskRCNNConvUpsampleHead",
    "MODEL__ROI_MASK_HEAD__NUM_CONV": 1,
    "MODEL__ROI_MASK_HEAD__CONV_DIM": 8,
    "MODEL__ROI_MASK_HEAD__POOLER_RESOLUTION": 7,
}
KEYPOINT_HEAD = {
    "MODEL__KEYPOINT_ON": True,
    "MODEL__ROI_KEYPOINT_HEAD__CONV_DIMS": [8],
    "MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS": 2,
}


def add_masks_and_keypoints(targets):
    for targets_per_image in targets:
        n = len(targets_per_image)
        # Different for each object: the share of ones is its number.
        masks = torch.zeros(n, *IMAGE_SIZE)
        for i in range(n):
            masks[i, : 10 * (i + 1)] = 1
        targets_per_image.gt_masks = BitMasks(masks)
        center = targets_per_image.gt_boxes.get_centers()
        points = torch.stack([center, center + 1], dim=1)
        visible = torch.full((n, 2, 1), 2.0)
        targets_per_image.gt_keypoints = Keypoints(torch.cat([points, visible], dim=2))


def make_proposals(targets, counts, seed=0):
    """
    Proposals for each image: a third near its objects, the rest anywhere.
    """
    generator = torch.Generator().manual_seed(seed)
    proposals = []
    for targets_per_image, n in zip(targets, counts, strict=True):
        boxes = random_boxes(n, generator)
        gt_boxes = targets_per_image.gt_boxes.tensor.cpu()
        if len(gt_boxes):
            near = n // 3
            boxes[:near] = gt_boxes[torch.arange(near) % len(gt_boxes)]
            boxes[:near] += torch.randn(near, 4, generator=generator)
        proposals.append(
            Instances(IMAGE_SIZE, proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(n)).to(
                targets_per_image.gt_classes.device
            )
        )
    return proposals


def make_features(num_images, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(
            num_images,
            shape.channels,
            IMAGE_SIZE[0] // shape.stride,
            IMAGE_SIZE[1] // shape.stride,
            generator=generator,
        )
        .to(device)
        .requires_grad_()
        for name, shape in INPUT_SHAPE.items()
    }


OBJECTS, PROPOSALS = (3, 0, 2), (40, 25, 30)


def make_inputs(objects=OBJECTS, proposals=PROPOSALS, device="cpu"):
    targets = make_targets(objects, device=device)
    return make_features(len(objects), device=device), make_proposals(targets, proposals), targets


def train_step(heads, features, proposals, targets):
    """
    Returns:
        the RoIs trained on, the losses, and what is in the event storage
    """
    with EventStorage() as storage:
        rois, losses = heads(None, features, proposals, targets)
        sum(losses.values()).backward()
        return rois, losses, {k: v for k, (v, _) in storage.latest().items()}


def gradients(heads):
    return {name: p.grad.clone() for name, p in heads.named_parameters()}


def mask_inputs(heads):
    """
    Returns:
        list[Instances]: empty; each forward appends the RoIs that the mask head receives
    """
    given = []
    heads.mask_head.register_forward_pre_hook(lambda _module, args: given.extend(args[1]))
    return given


def use_clutter(root):
    """
    Have the registered clutter datasets of this process be those in the folder `root`.
    """
    for name in [x for x in DatasetCatalog.list() if x.startswith("clutter_")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)
    register_clutter(str(root))


@pytest.fixture(scope="module")
def run_in_two_processes():
    """
    A function that calls another one in two processes, which form a process group. They are
    started once for all tests of a module.

    Args:
        function: takes its rank and the arguments
        arguments: its other arguments

    Returns:
        dict: what the function returns, by rank
    """
    # This process keeps the store in which they meet: it outlives both.
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    pool = ProcessPoolExecutor(
        2, mp.get_context("spawn"), initializer=_join_process_group, initargs=(store.port,)
    )

    def run(function, *arguments):
        futures = [pool.submit(_run_in_process_group, function, arguments) for _ in range(2)]
        done, running = wait(futures, timeout=300, return_when=FIRST_EXCEPTION)
        failed = [x for x in done if x.exception()]
        if failed or running:
            for process in pool._processes.values():
                process.kill()
        for x in failed:
            x.result()
        if running:
            pytest.fail("The processes wait for each other.")
        return dict(x.result() for x in futures)

    yield run
    pool.shutdown()


def _join_process_group(port):
    faulthandler.enable()
    store = dist.TCPStore("localhost", port, is_master=False)
    rank = store.add("processes", 1) - 1
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)


def _run_in_process_group(function, arguments):
    dist.barrier()  # one call in each process
    result = function(dist.get_rank(), *arguments)
    dist.barrier()
    return dist.get_rank(), result


def make_voc(root, name, images, year=2012):
    """
    Write and register a dataset in the layout of PASCAL VOC, of gray images of 100 x 80 pixels.

    Args:
        images (dict): by image id a list of objects: class, box as in the XML file, "difficult"
            (None: the element is not written)
    """
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for image_id, objects in images.items():
        cv2.imwrite(str(root / f"JPEGImages/{image_id}.jpg"), np.full((80, 100, 3), 128, np.uint8))
        text = "<annotation><size><width>100</width><height>80</height></size>"
        for class_name, box, difficult in objects:
            text += f"<object><name>{class_name}</name>"
            if difficult is not None:
                text += f"<difficult>{difficult}</difficult>"
            corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            text += f"<bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in corners)}</bndbox></object>"
        (root / f"Annotations/{image_id}.xml").write_text(text + "</annotation>")
    (root / "ImageSets/Main/train.txt").write_text("\n".join(images) + "\n")
    register_pascal_voc(name, str(root), "train", year, VOC_CLASSES)
    MetadataCatalog.get(name).evaluator_type = "pascal_voc"


VOC_CLASSES = ("cat", "dog", "cow")
# An object at (10, 10) of 30 x 20 in coordinates of detectron2, and a difficult one at (60, 40).
VOC_IMAGES = {
    "both": [("dog", (11, 11, 40, 30), 0), ("cow", (61, 41, 90, 70), 1)],
    "difficult_alone": [("cow", (61, 41, 90, 70), 1)],
    "easy_alone": [("dog", (11, 11, 40, 30), 0)],
    "without_the_flag": [("cat", (11, 11, 40, 30), None)],
}


@pytest.fixture
def voc(tmp_path):
    """
    The name of a registered dataset of VOC_IMAGES.
    """
    name = "made_voc_train"
    make_voc(tmp_path / "voc", name, VOC_IMAGES)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.pop(name)
