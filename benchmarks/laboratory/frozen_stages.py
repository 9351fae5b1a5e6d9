"""
The frozen stages of a laboratory's backbone return the same features of an image whenever they see
it. Runs compute them once, and keep them in files that all runs share: most of a step's time on a
CPU. The times of steps are measured without it, by benchmarks.laboratory.times.
"""

import hashlib
import os
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN
from torch import Tensor, nn

from ohem_d2.modeling.backbone import build_torchvision_fpn_backbone

__all__ = ["build_remembering_backbone", "remember"]


@BACKBONE_REGISTRY.register()
def build_remembering_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """
    Create the backbone of :func:`build_torchvision_fpn_backbone`, with the same parameters. It
    keeps the features of its frozen stages beside MODEL.WEIGHTS.
    """
    backbone = build_torchvision_fpn_backbone(cfg, input_shape)
    layers = backbone.bottom_up.features
    first_trained = next(
        i for i, x in enumerate(layers) if any(p.requires_grad for p in x.parameters())
    )
    remember(layers[:first_trained], Path(cfg.MODEL.WEIGHTS).parent / "frozen_stages")
    return backbone


def remember(layers: nn.Sequential, folder: Path) -> None:
    """
    Have the first layer return what all of these return of an image, computed once, and the others
    what they are given. Parameters and their names do not change.

    Args:
        layers: without randomness, and without parameters that are trained.
        folder (Path): for the features: a folder for each state of the parameters, in it a file
            for each image.
    """
    forwards = [x.forward for x in layers]

    def compute(x: Tensor) -> Tensor:
        for forward in forwards:
            x = forward(x)
        return x

    @torch.no_grad()
    def recall(images: Tensor) -> Tensor:
        state = digest(*layers.state_dict().values())
        return torch.cat([recall_one(x, state) for x in images.split(1)])

    def recall_one(image: Tensor, state: str) -> Tensor:
        file = folder / state / f"{digest(image)}.npy"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            # With a name of its own: several runs may write the same features.
            with NamedTemporaryFile(dir=file.parent, delete=False) as unfinished:
                np.save(unfinished, compute(image).cpu().numpy())
            os.replace(unfinished.name, file)
        return torch.from_numpy(np.load(file)).to(image.device)

    for layer, forward in zip(layers, (recall, *[lambda x: x] * (len(layers) - 1)), strict=True):
        layer.forward = forward


def digest(*tensors: Tensor) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for x in tensors:
        hashed.update(x.cpu().contiguous().numpy())
    return hashed.hexdigest()
