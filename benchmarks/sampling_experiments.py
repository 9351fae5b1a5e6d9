"""
What is compared: the datasets, the recipes, and the experiments, each a table of docs/results.md.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_voc_instances

from ohem_d2.engine import load_config

__all__ = [
    "CONFIGS",
    "DATASETS",
    "EXPERIMENTS",
    "RECIPES",
    "Dataset",
    "Experiment",
    "Recipe",
    "Registered",
    "Run",
    "config_digest",
    "num_iterations",
    "options_of",
    "register",
    "value_of",
]

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

Options = Mapping[str, Any]

SEEDS = (1, 2, 3, 4, 5)  # fixed before the first run, and all of them are shown


class Dataset(NamedTuple):
    """
    What a detector is trained and evaluated on, and the config that all recipes share.
    """

    title: str
    config: str  # in configs/
    options: Options
    folder: Optional[str] = None  # in --data, in the layout of PASCAL VOC. None: made here.
    class_names: tuple[str, ...] = ()
    background_classes: tuple[str, ...] = ()  # that are annotated, and not to be found
    source: str = ""  # where to get it
    pretrained: bool = True  # whether the backbone begins with --weights
    missing: float = 0.0  # the share of the training annotations that is deleted


class Recipe(NamedTuple):
    """
    How RoIs are chosen in training.
    """

    title: str
    options: Options


class Run(NamedTuple):
    dataset: str  # of DATASETS
    recipe: str  # of RECIPES
    seed: int


class Experiment(NamedTuple):
    """
    Runs that one table of the report compares.
    """

    title: str
    question: str
    datasets: tuple[str, ...]
    recipes: tuple[str, ...]  # the first is what the others are compared with
    seeds: tuple[int, ...] = SEEDS
    varied: Optional[str] = None  # a key of the config of which each recipe is tried with values

    def runs(self) -> list[Run]:
        """
        Returns:
            list[Run]: a seed of all datasets and recipes after the other, so that what is there
            when it is stopped can be compared.
        """
        return [Run(d, r, s) for s in self.seeds for d in self.datasets for r in self.recipes]


LR = "SOLVER.BASE_LR"
B = "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"
FG = "MODEL.ROI_HEADS.POSITIVE_FRACTION"

# Half of the demo's images in a step, and as many steps as on the photographs.
CLUTTER: Options = {
    "SOLVER.IMS_PER_BATCH": 2,
    LR: 0.01,
    "SOLVER.MAX_ITER": 700,
    "SOLVER.STEPS": (525, 650),
}

PLAYING_CARDS = Dataset(
    "Playing cards",
    "benchmarks/faster_rcnn_SqueezeNet.yaml",
    {"MODEL.ROI_HEADS.NUM_CLASSES": 6},
    folder="cards",
    class_names=("nine", "ten", "jack", "queen", "king", "ace"),
    source="It is that of github.com/EdjeElectronics/TensorFlow-Object-Detection-API-Tutorial-"
    "Train-Multiple-Objects-Windows-10, 296 of its images split into 236 and 60.",
)

BLOOD_CELLS = Dataset(
    "Blood cells",
    "benchmarks/faster_rcnn_SqueezeNet.yaml",
    {
        "MODEL.ROI_HEADS.NUM_CLASSES": 3,
        # Stride 8 and small anchors, without which no platelet is found; and what a microscope
        # sees is farther from ImageNet.
        "MODEL.TORCHVISION.OUT_FEATURES": ["stage3"],
        "MODEL.RPN.IN_FEATURES": ["stage3"],
        "MODEL.ROI_HEADS.IN_FEATURES": ["stage3"],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 36, 84]],
        "MODEL.BACKBONE.FREEZE_AT": 2,
        LR: 0.01,
    },
    folder="bccd",
    class_names=("RBC", "WBC", "Platelets"),
    source="It is github.com/Shenggan/BCCD_Dataset, 292 of its images split into 205 and 87.",
)


def _from_random_weights(dataset: Dataset, anchor_sizes: list[int]) -> Dataset:
    """
    Photographs for the demo's detector, at the size that the others have.
    """
    return dataset._replace(
        title=f"{dataset.title}, from random weights",
        config="demo/faster_rcnn_R_18.yaml",
        options={
            **CLUTTER,
            "MODEL.ROI_HEADS.NUM_CLASSES": len(dataset.class_names),
            "MODEL.ANCHOR_GENERATOR.SIZES": [anchor_sizes],
            "INPUT.MIN_SIZE_TRAIN": (192,),
            "INPUT.MIN_SIZE_TEST": 192,
            B: 32,
        },
        pretrained=False,
    )


DATASETS = {
    "cards": PLAYING_CARDS,
    "cards-random": _from_random_weights(PLAYING_CARDS, [32, 64, 128]),
    "bccd": BLOOD_CELLS,
    "bccd-rare": BLOOD_CELLS._replace(
        title="Blood cells, without the red ones",
        options={
            **BLOOD_CELLS.options,
            "MODEL.ROI_HEADS.NUM_CLASSES": 2,
            "DATASETS.DIFFICULT": "train",  # none is, and the files have more objects than remain
        },
        class_names=("WBC", "Platelets"),
        background_classes=("RBC",),
    ),
    "bccd-random": _from_random_weights(BLOOD_CELLS, [16, 36, 84]),
    "clutter": Dataset("Made images", "demo/faster_rcnn_R_18.yaml", CLUTTER, pretrained=False),
    "clutter-30": Dataset(
        "Made images, 30 % of the training boxes deleted",
        "demo/faster_rcnn_R_18.yaml",
        CLUTTER,
        pretrained=False,
        missing=0.3,
    ),
}

OHEM: Options = {"MODEL.ROI_HEADS.NAME": "OHEMROIHeads"}
# Both, because the default may change.
PAPER: Options = {**OHEM, "MODEL.OHEM.FOREGROUND": "mined"}
BACKGROUND: Options = {**OHEM, "MODEL.OHEM.FOREGROUND": "sampled"}

RECIPES = {
    "stock": Recipe("Random sampling", {}),
    "paper": Recipe("OHEM as in the paper", PAPER),
    "background": Recipe("Background mining", BACKGROUND),
    # What else is random.
    "half": Recipe("Random sampling, half foreground", {FG: 0.5}),
    "bg_lo": Recipe(
        "Random sampling, background of an IoU of .1 or more", {"MODEL.ROI_HEADS.BG_LO": 0.1}
    ),
    "all": Recipe("All RoIs, learning rate 0.01", {B: 2048, LR: 0.01}),
}

COMPARED = ("stock", "paper", "background")

LEARNING_RATES = {
    f"{name}, LR {value:g}": Recipe(
        f"{RECIPES[name].title}, learning rate {value:g}", {**RECIPES[name].options, LR: value}
    )
    for name in COMPARED
    for value in (0.01, 0.02)
}
# Random sampling then takes as long as mining for 700 iterations.
LONGER = {
    f"{name}, longer": Recipe(
        f"{RECIPES[name].title}, 1,200 iterations",
        {**RECIPES[name].options, "SOLVER.MAX_ITER": 1200, "SOLVER.STEPS": (900, 1114)},
    )
    for name in COMPARED
}
LONGER["stock, longest"] = Recipe(  # as long as mining for 1,200
    "Random sampling, 2,100 iterations",
    {"SOLVER.MAX_ITER": 2100, "SOLVER.STEPS": (1575, 1950)},
)
# Of more RoIs, few are foreground: the gradient is smaller, so the learning rate is larger.
NUM_ROIS = {
    f"{name}, B {value}": Recipe(
        f"{RECIPES[name].title}, {value} RoIs, learning rate {rate:g}",
        {**RECIPES[name].options, B: value, LR: rate},
    )
    for name in COMPARED
    for value, rate in ((16, 0.005), (128, 0.01))
}
# The paper's with one thing changed.
ONE_THING = {
    f"paper, {name}": Recipe(f"OHEM, {title}", {**PAPER, **changes})
    for name, title, changes in (
        ("no NMS", "without NMS", {"MODEL.OHEM.NMS_THRESH": 1.0}),
        ("NMS .5", "NMS at an IoU of .5", {"MODEL.OHEM.NMS_THRESH": 0.5}),
        ("NMS .9", "NMS at an IoU of .9", {"MODEL.OHEM.NMS_THRESH": 0.9}),
        (
            "NMS per label",
            "NMS per label, as in its authors' code",
            {"MODEL.OHEM.NMS_PER_CLASS": True},
        ),
        ("1:3", "at most a quarter foreground", {"MODEL.OHEM.POSITIVE_FRACTION": 0.25}),
        ("classification", "by classification loss alone", {"MODEL.OHEM.BOX_LOSS_WEIGHT": 0.0}),
        ("box .2", "box loss weighted .2 in the ranking", {"MODEL.OHEM.BOX_LOSS_WEIGHT": 0.2}),
        ("late", "from the middle of the training on", {"MODEL.OHEM.WARMUP_ITERS": 350}),
        ("L1", "L1 box loss", {"MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.0}),
        ("GIoU", "GIoU box loss", {"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "giou"}),
        ("no clipping", "without gradient clipping", {"SOLVER.CLIP_GRADIENTS.ENABLED": False}),
    )
}
RECIPES.update({**LEARNING_RATES, **LONGER, **NUM_ROIS, **ONE_THING})

EXPERIMENTS = {
    "main": Experiment(
        "Does it help?",
        "As many RoIs an image (32) and iterations (700) in all of them. Background mining: the "
        "foreground is a random sample.",
        ("cards", "bccd"),
        COMPARED,
    ),
    "best stock": Experiment(
        "Or is there a better random sampling?",
        "Both ways of mining beside random sampling with more foreground, with more RoIs, with all "
        "of them, and with Fast R-CNN's background.",
        ("cards",),
        (
            *("background", "paper", "stock", "half", "bg_lo"),
            *("stock, B 128", "paper, B 128", "all"),
        ),
        seeds=SEEDS[:2],
    ),
    "equal time": Experiment(
        "Or is the time better spent on more iterations?",
        "Random sampling for as long as mining takes, with the steps of the learning rate in "
        "proportion.",
        ("cards", "bccd"),
        ("stock, longer", "stock", "paper", "background"),
    ),
    "longer training": Experiment(
        "And in a longer training?",
        "All of them for 1,200 iterations, and random sampling for as long as mining takes then.",
        ("cards",),
        tuple(LONGER),
    ),
    "larger rate": Experiment(
        "And at a larger learning rate?",
        "Random sampling at twice the learning rate, and mining at that of the first table.",
        ("cards",),
        ("stock, LR 0.01", "stock", "paper", "background"),
    ),
    "more RoIs": Experiment(
        "And of more RoIs?",
        "Mining among the same proposals, of which four times as many are kept.",
        ("cards",),
        ("stock, B 128", "background, B 128", "background"),
    ),
    "rare foreground": Experiment(
        "Where foreground is rare?",
        "The blood cells again, with the red ones, which are 85 % of the boxes, as background: a "
        "test of the guess that this is what the cards have and they have not.",
        ("bccd-rare",),
        COMPARED,
    ),
    "random weights": Experiment(
        "From random weights?",
        "The demo's detector, a part of ResNet-18, which has not learned from ImageNet.",
        ("cards-random", "bccd-random"),
        COMPARED,
        seeds=SEEDS[:3],
    ),
    "rare background": Experiment(
        "Where hard background is rare?",
        "The demo's images: objects among plain background, and few look-alikes without a label.",
        ("clutter",),
        COMPARED,
    ),
    "one thing": Experiment(
        "What does each part of it do?",
        "The paper's recipe with one thing changed.",
        ("cards",),
        ("paper", *ONE_THING),
        seeds=SEEDS[:1],
    ),
    "numbers of RoIs": Experiment(
        "How many RoIs?",
        "With 128, the learning rate is .01, and .005 with less. An image has some 400, so 512 "
        "would be all of them, and nothing would be left to choose.",
        ("cards",),
        (*COMPARED, *NUM_ROIS),
        seeds=SEEDS[:1],
        varied=B,
    ),
    "missing boxes": Experiment(
        "When boxes are missing?",
        "A known share of the boxes is deleted from the training images, and none from the test "
        "images.",
        ("clutter-30",),
        COMPARED,
        seeds=SEEDS[:3],
    ),
    "learning rates": Experiment(
        "At which learning rates?",
        "In the other tables it is .005.",
        ("cards",),
        (*COMPARED, *LEARNING_RATES),
        seeds=SEEDS[:1],
        varied=LR,
    ),
}


def options_of(dataset: str, recipe: str) -> dict[str, Any]:
    """
    All that is set over the dataset's config.
    """
    return {**DATASETS[dataset].options, **RECIPES[recipe].options}


def value_of(dataset: str, recipe: str, key: str) -> Any:
    """
    Of a key of the config, in the runs of a recipe.
    """
    options = options_of(dataset, recipe)
    if key in options:
        return options[key]
    value = load_config(str(CONFIGS / DATASETS[dataset].config))
    for name in key.split("."):
        value = value[name]
    return value


@cache  # each line of results is compared with it
def config_digest(config: str) -> str:
    """
    Of what a dataset's config file says: results that were made with another are not comparable.
    """
    content = CfgNode.load_yaml_with_base(str(CONFIGS / config))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def num_iterations(run: Run) -> int:
    return value_of(run.dataset, run.recipe, "SOLVER.MAX_ITER")


class Registered(NamedTuple):
    """
    Names in detectron2's catalog.
    """

    train: str
    complete_train: str  # the same images with all of their annotations
    test: str


def register(dataset: str, data: Path) -> Registered:
    """
    Register one of DATASETS with detectron2.

    Args:
        dataset (str): its name there.
        data (Path): the folder that holds the folders of all of them.
    """
    spec = DATASETS[dataset]
    if spec.folder is None:
        train, test = "clutter_coco_train", "clutter_voc_test"
    else:
        train, test = f"{dataset}_train", f"{dataset}_val"
        annotated = spec.class_names + spec.background_classes
        for name, split in ((train, "train"), (test, "val")):
            folder = str(data / spec.folder)
            load = partial(load_voc_instances, folder, split, annotated)
            DatasetCatalog.register(name, partial(_of_classes, load, len(spec.class_names)))
            MetadataCatalog.get(name).set(
                thing_classes=list(spec.class_names),
                evaluator_type="pascal_voc",
                dirname=folder,
                split=split,
                # Average precision is the area under the curve, and not its mean at 11 points.
                year=2012,
            )
    if not spec.missing:
        return Registered(train, train, test)

    rest = f"{train}_{spec.missing:.0%}_missing"
    DatasetCatalog.register(rest, partial(_delete_annotations, train, spec.missing))
    MetadataCatalog.get(rest).thing_classes = MetadataCatalog.get(test).thing_classes
    return Registered(rest, train, test)


def _of_classes(load: Callable[[], list[dict[str, Any]]], num: int) -> list[dict[str, Any]]:
    """
    What it loads without the annotations of other than the first classes.
    """
    return [
        {**record, "annotations": [x for x in record["annotations"] if x["category_id"] < num]}
        for record in load()
    ]


def _delete_annotations(name: str, share: float) -> list[dict[str, Any]]:
    """
    Of each dataset always the same, whatever the seed of the training.
    """
    rng = np.random.default_rng(0)
    return [
        {**record, "annotations": [x for x in record["annotations"] if rng.random() >= share]}
        for record in DatasetCatalog.get(name)
    ]
