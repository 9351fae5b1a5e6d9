from typing import Any

from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode

from ohem_d2.structures import TargetsWithIgnoreRegions

__all__ = ["IgnoreRegionsMapper"]

IGNORED = -1  # class of the regions while they are among the objects


class IgnoreRegionsMapper(DatasetMapper):
    """
    A :class:`DatasetMapper` that keeps the boxes of crowds (annotations with "iscrowd") as ignore
    regions. detectron2 drops them.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            dataset_dict (dict): one image in detectron2's dataset format.

        Returns:
            dict: the input of detectron2's models. In training, "instances" is a
            :class:`TargetsWithIgnoreRegions`.
        """
        if not self.is_train or "annotations" not in dataset_dict:
            return super().__call__(dataset_dict)

        # Pass the regions as objects, so that the parent transforms their boxes too.
        objects = [x for x in dataset_dict["annotations"] if not x.get("iscrowd", 0)]
        crowds = [x for x in dataset_dict["annotations"] if x.get("iscrowd", 0)]
        regions = [_as_object(x, like=objects[0] if objects else {}) for x in crowds]
        ret = super().__call__({**dataset_dict, "annotations": objects + regions})

        instances = ret["instances"]
        is_object = instances.gt_classes != IGNORED
        ret["instances"] = TargetsWithIgnoreRegions(
            instances.image_size,
            instances.gt_boxes[~is_object],
            **instances[is_object].get_fields(),
        )
        return ret


def _as_object(crowd: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """
    An annotation of the same box with the fields of an object: a crowd's mask has another encoding,
    and its keypoints may be missing.
    """
    ret = {
        "bbox": crowd["bbox"],
        "bbox_mode": crowd["bbox_mode"],
        "category_id": IGNORED,
    }
    if "segmentation" in like:
        x0, y0, x1, y1 = BoxMode.convert(list(crowd["bbox"]), crowd["bbox_mode"], BoxMode.XYXY_ABS)
        ret["segmentation"] = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    if "keypoints" in like:
        ret["keypoints"] = [0] * len(like["keypoints"])
    return ret
