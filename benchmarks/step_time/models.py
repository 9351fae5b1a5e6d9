"""
The models whose training steps are compared, and their inputs.
"""

from typing import Any, NamedTuple, Optional

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Boxes, ImageList, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from benchmarks.laboratory.experiments import CONFIGS, SETTINGS
from benchmarks.laboratory.laboratories import LABORATORIES
from benchmarks.provenance import ROOT
from benchmarks.step_time import loss_layer  # noqa: F401  (registers its heads)
from ohem_d2 import add_ohem_config

__all__ = [
    "BACKGROUND",
    "HALF",
    "LOSS_LAYER",
    "MODELS",
    "NUM_OBJECTS",
    "OHEM",
    "STOCK",
    "Model",
    "Variant",
    "build_variants",
    "make_inputs",
]

NUM_OBJECTS = 8  # per image: COCO has 7 on average
NEAR = 0.25  # the share of proposals near an object, as from a trained RPN


class Variant(NamedTuple):
    name: str
    heads: str  # MODEL.ROI_HEADS.NAME
    batch_size: int  # B, MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    # MODEL.OHEM.FOREGROUND, POOL_SIZE and MINING_HALF_PRECISION
    foreground: str = "mined"
    pool_size: int = 0
    half_precision: bool = False


class Model(NamedTuple):
    config: str  # a file
    image_size: tuple[int, int]  # height, width
    num_proposals: int  # per image, what the config's RPN leaves in training
    variants: tuple[Variant, ...]  # the first is the reference
    options: tuple[Any, ...] = ()  # of the config, keys and values in turn
    has_sweep: bool = False  # whether to measure mining by the number of RoIs


# Names of variants.
STOCK, OHEM, BACKGROUND, EQUAL, LOSS_LAYER = (
    "stock",
    "OHEM",
    "background mining",
    "OHEM, equal B",
    "loss layer",
)
HALF = ", half precision"  # after the name of another
FPN_SIZE = (800, 1066)  # of 480 x 640, COCO's most frequent
POOL_SIZES = (256, 512, 1024)


def _variants(
    stock: Variant, heads: str, batch_size: int, pool_sizes: tuple[int, ...]
) -> tuple[Variant, ...]:
    """
    Returns:
        tuple[Variant, ...]: `stock`, and mining of foreground and background and of background
        alone, with these limits on the RoIs and without a limit.
    """
    mining = [
        Variant(f"{name}, pool {pool}" if pool else name, heads, batch_size, foreground, pool)
        for name, foreground in ((OHEM, "mined"), (BACKGROUND, "sampled"))
        for pool in (*pool_sizes, 0)
    ]
    return (stock, *mining)


def _in_half_precision(variant: Variant) -> Variant:
    return variant._replace(name=variant.name + HALF, half_precision=True)


def _of_laboratory(
    name: str, heads: str, image_size: tuple[int, int], num_proposals: int, *pool_sizes: int
) -> Model:
    """
    Returns:
        Model: the detector of a laboratory, with as many RoIs to train on as random sampling and
        mining are best with there.
    """
    stock = Variant(STOCK, heads, SETTINGS[name]["random"][0])
    variants = _variants(stock, "OHEMROIHeads", SETTINGS[name]["OHEM"][0], pool_sizes)
    return Model(str(CONFIGS / LABORATORIES[name].config), image_size, num_proposals, variants)


_VGG16 = _variants(Variant(STOCK, "HeuristicROIHeads", 64), "OHEMROIHeads", 64, POOL_SIZES)

MODELS = {
    # With the ground truth, an image has less than 1,024 RoIs.
    "R50-FPN": Model(
        model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"),
        FPN_SIZE,
        1000,
        (
            *_variants(
                Variant(STOCK, "StandardROIHeads", 512), "OHEMROIHeads", 128, POOL_SIZES[:2]
            ),
            Variant(OHEM + HALF, "OHEMROIHeads", 128, half_precision=True),
            Variant(EQUAL, "OHEMROIHeads", 512),
            Variant(LOSS_LAYER, "LossLayerOHEMROIHeads", 128),
        ),
        has_sweep=True,
    ),
    # Without the heuristic bg_lo, so that the variants differ only in the heads.
    "VGG16": Model(
        str(ROOT / "configs/PascalVOC-Detection/fast_rcnn_VGG16_bg_lo_0.yaml"),
        (600, 1000),
        2000,
        (
            *_VGG16,
            *(_in_half_precision(x) for x in _VGG16 if x.name in (OHEM, f"{OHEM}, pool 512")),
            Variant(LOSS_LAYER, "LossLayerOHEMROIHeads", 64),
        ),
        has_sweep=True,
    ),
    "Cascade": Model(
        model_zoo.get_config_file("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml"),
        FPN_SIZE,
        1000,
        _variants(
            Variant(STOCK, "CascadeROIHeads", 512), "OHEMCascadeROIHeads", 128, POOL_SIZES[:2]
        ),
        ("MODEL.MASK_ON", False),
    ),
    "Mask": Model(
        model_zoo.get_config_file("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"),
        FPN_SIZE,
        1000,
        _variants(Variant(STOCK, "StandardROIHeads", 512), "OHEMROIHeads", 128, POOL_SIZES[:2]),
    ),
    "R50-C4": Model(
        model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"),
        FPN_SIZE,
        2000,
        _variants(Variant(STOCK, "Res5ROIHeads", 512), "OHEMRes5ROIHeads", 128, POOL_SIZES),
    ),
    "Laboratory, FPN": _of_laboratory("fpn", "StandardROIHeads", (224, 299), 256, 64),
    "Laboratory, fast": _of_laboratory("fast", "HeuristicROIHeads", (256, 341), 1000, 128),
}


def build_variants(model: Model, inputs: list[dict], device: str) -> dict[str, GeneralizedRCNN]:
    """
    Args:
        inputs (list[dict]): from :func:`make_inputs`.

    Returns:
        dict[str, GeneralizedRCNN]: by the variant's name, in training mode. All share the memory of
        the same random weights, and have the same proposals.
    """
    built: dict[str, GeneralizedRCNN] = {}
    weights: dict[str, Tensor] = {}
    for variant in model.variants:
        torch.manual_seed(0)
        network = build_model(_config(model, variant, device)).train()
        if not built:
            _calibrate(network, inputs)
            weights = network.state_dict()
        network.load_state_dict(weights, assign=True)
        built[variant.name] = network
    for network in built.values():
        if hasattr(network.proposal_generator, "rpn_head"):
            network.proposal_generator = _GivenProposals(network.proposal_generator, inputs)
    return built


def _config(model: Model, variant: Variant, device: str) -> CfgNode:
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.merge_from_file(model.config)
    cfg.merge_from_list(list(model.options))
    cfg.MODEL.DEVICE = device
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.ROI_HEADS.NAME = variant.heads
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = variant.batch_size
    cfg.MODEL.OHEM.FOREGROUND = variant.foreground
    cfg.MODEL.OHEM.POOL_SIZE = variant.pool_size
    cfg.MODEL.OHEM.WARMUP_ITERS = 0
    cfg.MODEL.OHEM.MINING_HALF_PRECISION = variant.half_precision
    return cfg


@torch.no_grad()
def _calibrate(network: GeneralizedRCNN, inputs: list[dict]) -> None:
    """
    Give the frozen batch norms the statistics of these inputs. Without them, features of random
    weights would grow from block to block until losses are not finite.
    """

    def set_statistics(layer: FrozenBatchNorm2d, args: tuple[Tensor]) -> None:
        var, mean = torch.var_mean(args[0], dim=(0, 2, 3))
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)

    norms = [x for x in network.modules() if isinstance(x, FrozenBatchNorm2d)]
    hooks = [x.register_forward_pre_hook(set_statistics) for x in norms]
    with EventStorage():
        losses = network(inputs)
    for hook in hooks:
        hook.remove()
    if not torch.isfinite(sum(losses.values())):
        raise FloatingPointError(f"The losses of random weights are not finite: {losses}")


class _GivenProposals(nn.Module):
    """
    Runs an RPN, and returns the proposals of the inputs instead of its own. With random weights an
    RPN finds no object, and NMS leaves a random number of its proposals; the cost of RoI heads
    depends on both.
    """

    def __init__(self, rpn: nn.Module, inputs: list[dict]):
        super().__init__()
        self.rpn = rpn
        self.proposals = [x["proposals"] for x in inputs]

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[Instances]
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        _, losses = self.rpn(images, features, targets)
        return [x.to(images.tensor.device) for x in self.proposals], losses


def make_inputs(model: Model, num_images: int, num_proposals: Optional[int] = None) -> list[dict]:
    """
    Args:
        num_proposals (int): per image. None for the model's.

    Returns:
        list[dict]: images of random pixels, in detectron2's standard format, with NUM_OBJECTS
        random objects each and proposals.
    """
    cfg = _config(model, model.variants[0], "cpu")
    generator = torch.Generator().manual_seed(0)
    size = model.image_size
    count = model.num_proposals if num_proposals is None else num_proposals
    inputs = []
    for _ in range(num_images):
        objects = _random_boxes(NUM_OBJECTS, size, generator)
        num_near = int(NEAR * count)
        near = objects[torch.randint(NUM_OBJECTS, (num_near,), generator=generator)]
        extent = (near[:, 2:] - near[:, :2]).repeat(1, 2)
        near = near + 0.1 * extent * torch.randn(num_near, 4, generator=generator)
        proposals = Boxes(torch.cat([near, _random_boxes(count - num_near, size, generator)]))
        proposals.clip(size)

        num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        instances = Instances(
            size,
            gt_boxes=Boxes(objects),
            gt_classes=torch.randint(num_classes, (NUM_OBJECTS,), generator=generator),
        )
        if cfg.MODEL.MASK_ON:
            corners = [[(x0, y0, x1, y0, x1, y1, x0, y1)] for x0, y0, x1, y1 in objects.tolist()]
            instances.gt_masks = PolygonMasks(corners)
        inputs.append(
            {
                "image": torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator),
                "instances": instances,
                "proposals": Instances(
                    size, proposal_boxes=proposals, objectness_logits=torch.zeros(count)
                ),
                "height": size[0],
                "width": size[1],
            }
        )
    return inputs


def _random_boxes(count: int, image_size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """
    Returns:
        Tensor: (count, 4), with sides of 1/16 to 1/2 of the image's height.
    """
    height, width = image_size
    size = torch.tensor([width, height])
    centers = size * torch.rand(count, 2, generator=generator)
    half = height / 2 * 2 ** (-1 - 3 * torch.rand(count, 2, generator=generator))
    corners = torch.cat([centers - half, centers + half], dim=1)
    return corners.clamp(min=0).minimum(size.repeat(2))
