from typing import Any

from detectron2.structures import Boxes, Instances

__all__ = ["TargetsWithIgnoreRegions"]


class TargetsWithIgnoreRegions(Instances):
    """
    The objects of an image, and its ignore regions, which are neither object nor background: COCO's
    crowds, PASCAL VOC's difficult objects.

    The rest of detectron2 (RPN, mask heads, visualization) sees only the objects. The regions are
    not a field: a field has one value for each object.
    """

    def __init__(self, image_size: tuple[int, int], ignore_boxes: Boxes, **fields: Any):
        """
        Args:
            image_size (tuple[int, int]): height and width.
            ignore_boxes (Boxes): the regions, in the same coordinates as the objects.
            fields: as in :class:`Instances`.
        """
        super().__init__(image_size, **fields)
        self._ignore_boxes = ignore_boxes

    @property
    def ignore_boxes(self) -> Boxes:
        return self._ignore_boxes

    def to(self, *args: Any, **kwargs: Any) -> "TargetsWithIgnoreRegions":
        """
        :meth:`Instances.to`, for the regions as well.
        """
        ret = super().to(*args, **kwargs)
        regions = Boxes(self._ignore_boxes.tensor.to(*args, **kwargs))
        return TargetsWithIgnoreRegions(ret.image_size, regions, **ret.get_fields())

    def __getitem__(self, item: Any) -> "TargetsWithIgnoreRegions":
        """
        Select objects, see :meth:`Instances.__getitem__`. All regions stay.
        """
        ret = super().__getitem__(item)
        return TargetsWithIgnoreRegions(ret.image_size, self._ignore_boxes, **ret.get_fields())
