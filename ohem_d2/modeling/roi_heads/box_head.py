"""
The box head of VGG.
"""

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_BOX_HEAD_REGISTRY
from torch import nn

__all__ = ["VGGBoxHead"]


@ROI_BOX_HEAD_REGISTRY.register()
class VGGBoxHead(nn.Sequential):
    """
    VGG's fully connected layers fc6 and fc7, each followed by ReLU and dropout: the head of Fast
    R-CNN (Girshick 2015, arXiv:1504.08083).
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, fc_dims: list[int], dropout: float = 0.5):
        """
        Args:
            input_shape (ShapeSpec): shape of a RoI's features.
            fc_dims (list[int]): output dimensions of fc6, fc7, ...
            dropout (float): probability that training zeroes a value.
        """
        super().__init__()
        if not fc_dims:
            raise ValueError("MODEL.ROI_BOX_HEAD.FC_DIMS is empty. It needs one dimension a layer.")
        if not 0 <= dropout < 1:
            raise ValueError(
                f"MODEL.ROI_BOX_HEAD.DROPOUT is {dropout}. It must be at least 0 and below 1."
            )
        self.add_module("flatten", nn.Flatten())
        dim = input_shape.channels * input_shape.height * input_shape.width
        for i, fc_dim in enumerate(fc_dims, start=6):
            fc = nn.Linear(dim, fc_dim)
            weight_init.c2_xavier_fill(fc)
            self.add_module(f"fc{i}", fc)
            self.add_module(f"relu{i}", nn.ReLU(inplace=True))
            self.add_module(f"drop{i}", nn.Dropout(dropout))
            dim = fc_dim
        self._output_size = dim

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {
            "input_shape": input_shape,
            "fc_dims": cfg.MODEL.ROI_BOX_HEAD.FC_DIMS,
            "dropout": cfg.MODEL.ROI_BOX_HEAD.DROPOUT,
        }

    @property
    @torch.jit.unused
    def output_shape(self) -> ShapeSpec:
        return ShapeSpec(channels=self._output_size)
