"""
Multi-scale testing: detectron2's test-time augmentation, with precomputed proposals, iterative
bounding-box regression and box voting.
"""

import logging
import math
from collections.abc import Callable
from itertools import groupby
from typing import Any, Optional

import torch
from detectron2 import modeling
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from torch import Tensor

from .detection_merger import DetectionMerger
from .iterative_box_regression import with_iterative_roi_heads

__all__ = ["DatasetMapperTTA", "GeneralizedRCNNWithTTA", "ImageTooLargeError"]

logger = logging.getLogger(__name__)

# The transforms of DatasetMapperTTA. Their apply_coords works on tensors, in place, and maps x and
# y each by itself, so that two corners of a box are enough.
ELEMENTWISE = (T.NoOpTransform, T.ResizeTransform, T.HFlipTransform)


class DatasetMapperTTA(modeling.DatasetMapperTTA):
    """
    Same as detectron2's, which makes an image and its mirror image for each scale, but transforms
    precomputed proposals along with the image.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> list[dict[str, Any]]:
        """
        Args:
            dataset_dict (dict): in detectron2's standard model input format.

        Returns:
            list[dict]: see :class:`detectron2.modeling.DatasetMapperTTA`. "proposals"
            (Instances) of the input are in the coordinates of each image.
        """
        proposals = dataset_dict.get("proposals")
        ret = super().__call__({k: v for k, v in dataset_dict.items() if k != "proposals"})
        if proposals is not None:
            for augmented in ret:
                # The first transform maps the image's file to the input image. The proposals
                # are in the coordinates of the latter.
                transform = T.TransformList(augmented["transforms"].transforms[1:])
                augmented["proposals"] = Instances(
                    augmented["image"].shape[1:],
                    **{
                        **proposals.get_fields(),
                        "proposal_boxes": Boxes(
                            _transform(proposals.proposal_boxes.tensor, transform)
                        ),
                    },
                )
        return ret


class ImageTooLargeError(RuntimeError):
    """
    A single image does not fit into memory.
    """


class GeneralizedRCNNWithTTA(modeling.GeneralizedRCNNWithTTA):
    """
    detectron2's test-time augmentation, with three differences. All boxes of all scales and all
    rounds of iterative regression are merged at once by NMS and box voting, as in the paper,
    rather than the detections of each scale. Models on precomputed proposals are supported.
    Batches that do not fit into memory are halved.

    With one scale and neither flip nor voting, it gives the detections of the model.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: GeneralizedRCNN,
        tta_mapper: Optional[Callable[[dict], list[dict]]] = None,
        batch_size: int = 3,
    ):
        """
        Args:
            cfg (CfgNode): a detectron2 config with the keys of :func:`add_ohem_config`.
            model (GeneralizedRCNN): the model to apply it to. It is not changed.
            tta_mapper (callable): takes a dataset dict and returns a list of augmented versions
                of it. By default `DatasetMapperTTA(cfg)`.
            batch_size (int): forward at most this many augmented images at a time. The images of
                a batch have the same size, so none is padded.
        """
        theirs = cfg.clone()
        theirs.defrost()
        theirs.MODEL.LOAD_PROPOSALS = False  # detectron2 refuses precomputed proposals
        super().__init__(
            theirs,
            with_iterative_roi_heads(cfg, model),
            tta_mapper or DatasetMapperTTA(cfg),
            batch_size,
        )
        self.batch_size: int = batch_size
        self.merge = DetectionMerger(cfg)
        self._largest_that_fit = (0, 0)  # height and width

    def _batch_inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: Optional[list[Instances]] = None,
    ) -> list[Instances]:
        """
        See :meth:`detectron2.modeling.GeneralizedRCNNWithTTA._batch_inference`.
        """
        inputs_and_instances = zip(
            batched_inputs, detected_instances or [None] * len(batched_inputs), strict=True
        )
        outputs = []
        # One size at a time: padding would change the features at the border of an image.
        for _, group in groupby(inputs_and_instances, key=lambda x: x[0]["image"].shape[1:]):
            inputs, instances = map(list, zip(*group, strict=True))
            outputs.extend(
                self._inference_that_fits(inputs, instances if detected_instances else None)
            )
        return outputs

    def _inference_that_fits(
        self, inputs: list[dict[str, Any]], instances: Optional[list[Instances]]
    ) -> list[Instances]:
        """
        Forward images of one size, in smaller batches if they do not fit into memory.

        Raises:
            ImageTooLargeError: if a single image does not fit.
        """
        height, width = inputs[0]["image"].shape[1:]
        try:
            outputs = super()._batch_inference(inputs, instances)
        except RuntimeError as e:
            if not _is_out_of_memory(e):
                raise
        else:
            self._largest_that_fit = max(self._largest_that_fit, (height, width), key=math.prod)
            return outputs
        # Not in the except clause, where the exception keeps the tensors of the failed pass alive.
        torch.cuda.empty_cache()
        count = min(self.batch_size, len(inputs))
        if count == 1:
            raise ImageTooLargeError(
                f"An image of {height} x {width} pixels does not fit into memory. The largest that "
                f"fit had {' x '.join(map(str, self._largest_that_fit))}: remove the larger scales "
                "from TEST.AUG.MIN_SIZES, or lower TEST.AUG.MAX_SIZE."
            )
        self.batch_size = count // 2
        logger.warning(
            f"{count} images of {height} x {width} pixels do not fit into memory at once. "
            f"Continuing with batches of {self.batch_size}."
        )
        return self._inference_that_fits(inputs, instances)

    def _get_augmented_boxes(
        self, augmented_inputs: list[dict[str, Any]], tfms: list[T.Transform]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Returns:
            boxes (R, 4), scores (R,) and classes (R,) from all augmented images, in the
            coordinates of the original image.
        """
        outputs = self._batch_inference(augmented_inputs)
        boxes = [
            _transform(x.pred_boxes.tensor, tfm.inverse())
            for x, tfm in zip(outputs, tfms, strict=True)
        ]
        scores, classes = [x.scores for x in outputs], [x.pred_classes for x in outputs]
        return torch.cat(boxes), torch.cat(scores), torch.cat(classes)

    def _merge_detections(
        self,
        all_boxes: Tensor,
        all_scores: Tensor,
        all_classes: Tensor,
        shape_hw: tuple[int, int],
    ) -> Instances:
        """
        Args:
            all_boxes, all_scores, all_classes: see :meth:`_get_augmented_boxes`.
            shape_hw (tuple[int, int]): height and width of the original image.

        Returns:
            Instances: the detections.
        """
        boxes = Boxes(all_boxes)
        boxes.clip(shape_hw)
        detections = self.merge(
            Instances(shape_hw, pred_boxes=boxes, scores=all_scores, pred_classes=all_classes)
        )
        # As detector_postprocess does. With indices a GPU is waited for once, not for each field.
        return detections[detections.pred_boxes.nonempty().nonzero()[:, 0]]


def _transform(boxes: Tensor, transform: T.Transform) -> Tensor:
    """
    Same as `transform.apply_box`, to the bit. That takes NumPy arrays; here, boxes stay on their
    device unless the mapper is not ours.
    """
    if any(type(x) not in ELEMENTWISE for x in getattr(transform, "transforms", [transform])):
        return torch.from_numpy(transform.apply_box(boxes.cpu().numpy())).to(boxes)
    corners = transform.apply_coords(boxes.reshape(-1, 2).clone()).reshape(-1, 2, 2)
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def _is_out_of_memory(error: RuntimeError) -> bool:
    # On a CPU, PyTorch raises a plain RuntimeError.
    return isinstance(error, torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
