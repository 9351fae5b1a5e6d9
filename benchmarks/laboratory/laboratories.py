"""
The laboratories: small detectors, and the photographs that they are trained and tested on.
"""

from typing import NamedTuple, Optional

__all__ = [
    "DATASETS",
    "LABORATORIES",
    "MISSING",
    "Dataset",
    "Laboratory",
    "with_all_boxes",
    "without_some_boxes",
]


class Dataset(NamedTuple):
    """
    A folder in the layout of PASCAL VOC.
    """

    title: str
    folder: str
    class_names: tuple[str, ...]
    source: str  # where to get it
    missing: float = 0.0  # share of the training set's boxes that are deleted


class Laboratory(NamedTuple):
    title: str
    config: str  # in configs/, with random sampling
    # Of torchvision, trained on ImageNet: its features are the backbone. None: detectron2's own
    # backbone, and weights with its names.
    classifier: Optional[str]
    classifier_std: Optional[float]  # that it divides images by. None: the config's PIXEL_STD
    datasets: tuple[str, ...]  # of DATASETS
    # Of random sampling with so many RoIs per image to train on. Its time is equal time.
    iterations: int
    rois: int
    # Mining begins after a tenth of the iterations, and at least so many. The package's default is
    # 150: trainings of a few hundred would hardly mine.
    min_warmup_iters: int
    tried_rois: tuple[int, ...]
    # How each recipe's settings are chosen. Empty: they are those of the config.
    tuned_on: tuple[str, ...] = ()
    tried_rates: tuple[float, ...] = ()
    tuning_factor: float = 1.0  # of the iterations


_PHOTOGRAPHS = {
    "cards": Dataset(
        "Playing cards",
        "cards",
        ("nine", "ten", "jack", "queen", "king", "ace"),
        "github.com/EdjeElectronics/TensorFlow-Object-Detection-API-Tutorial-Train-Multiple-Objects"
        "-Windows-10",
    ),
    "bccd": Dataset(
        "Blood cells", "bccd", ("RBC", "WBC", "Platelets"), "github.com/Shenggan/BCCD_Dataset"
    ),
    "carplates": Dataset(
        "Cars' license plates", "carplates", ("plate",), "github.com/openalpr/benchmarks"
    ),
    "plates": Dataset(
        "License plates from a drive",
        "plates",
        ("license_plate",),
        "github.com/RobertLucian/license-plate-dataset",
    ),
    "pcb": Dataset(
        "Circuit boards",
        "pcb",
        ("open", "short", "mousebite", "spur", "copper", "pin-hole"),
        "github.com/tangsanli5201/DeepPCB",
    ),
    "pests": Dataset(
        "Insects on rice",
        "pests",
        ("planthopper", "rice_bug", "leaf_roller", "stem_borer", "grasshopper", "caterpillar"),
        "github.com/AhmadSubadri/dataset-pest-rice",
    ),
}

MISSING = 0.3
_SUFFIX = ", boxes missing"


def without_some_boxes(dataset: str) -> str:
    """
    Returns:
        str: the name in DATASETS of the same photographs, without some of the boxes.
    """
    return dataset + _SUFFIX


def with_all_boxes(dataset: str) -> str:
    """
    Returns:
        str: the name in DATASETS of the same photographs, with all of the boxes.
    """
    return dataset.removesuffix(_SUFFIX)


DATASETS = {
    **_PHOTOGRAPHS,
    **{
        without_some_boxes(k): x._replace(
            title=f"{x.title}, {MISSING:.0%} of the boxes missing", missing=MISSING
        )
        for k, x in _PHOTOGRAPHS.items()
    },
}

LABORATORIES = {
    # The paper's: precomputed proposals, most of them easy background, and one feature map.
    "fast": Laboratory(
        "Fast R-CNN on selective search, SqueezeNet",
        "benchmarks/fast_rcnn_SqueezeNet.yaml",
        "squeezenet1_0",
        1.0,
        tuple(_PHOTOGRAPHS),
        iterations=1600,
        rois=64,
        min_warmup_iters=50,
        tried_rois=(32, 64, 128),
        tuned_on=("cards", "pests"),
        tried_rates=(0.005, 0.01, 0.02),
    ),
    # Today's: an RPN, feature pyramid, and L1 box loss.
    "fpn": Laboratory(
        "Faster R-CNN, MobileNetV2-FPN",
        "benchmarks/faster_rcnn_MobileNetV2_FPN.yaml",
        "mobilenet_v2",
        None,
        tuple(_PHOTOGRAPHS),
        iterations=1600,
        rois=32,
        min_warmup_iters=50,
        tried_rois=(32, 64, 128),
        tuned_on=("cards", "carplates"),
        tried_rates=(0.0025, 0.005, 0.01),  # random sampling diverges at .02
        tuning_factor=0.677,  # 1,080 iterations of random sampling with 32 RoIs
    ),
    # What users have: detectron2's own R50-FPN config, and mining by its keys alone.
    "r50": Laboratory(
        "Faster R-CNN, R50-FPN of half width",
        "benchmarks/faster_rcnn_half_R50_FPN.yaml",
        None,
        None,
        ("pests",),
        iterations=600,
        rois=512,
        min_warmup_iters=150,
        tried_rois=(128, 512),
    ),
}
