"""
What is compared: datasets, recipes, and the experiments that combine them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from benchmarks.laboratory.experiments import CONFIGS, config_digest

__all__ = [
    "CONFIGS",
    "DATASETS",
    "EXPERIMENTS",
    "RECIPES",
    "Dataset",
    "Experiment",
    "Recipe",
    "Run",
    "config_digest",
    "options_of",
]

Options = Mapping[str, Any]


class Dataset(NamedTuple):
    """
    What a detector is trained and evaluated on, and the config that all recipes share.
    """

    title: str
    detector: str
    config: str  # in configs/
    options: Options
    folder: Optional[str] = None  # of --data, in the layout of PASCAL VOC. None: generated
    class_names: tuple[str, ...] = ()
    background_classes: tuple[str, ...] = ()  # annotated, but not to be detected
    source: str = ""  # where to get it
    pretrained: bool = True  # whether the backbone begins with the classifier's weights


class Recipe(NamedTuple):
    """
    How RoIs are sampled in training.
    """

    title: str
    options: Options


class Run(NamedTuple):
    dataset: str  # of DATASETS
    recipe: str  # of RECIPES
    seed: int


class Experiment(NamedTuple):
    """
    Runs that a table compares.
    """

    datasets: tuple[str, ...]
    recipes: tuple[str, ...]  # the others are compared with the first
    seeds: tuple[int, ...]
    has_times: bool = True  # False: other programs ran beside the trainings

    def runs(self) -> list[Run]:
        return [Run(d, r, s) for s in self.seeds for d in self.datasets for r in self.recipes]


SQUEEZENET = "Faster R-CNN, SqueezeNet"

PLAYING_CARDS = Dataset(
    "Playing cards",
    SQUEEZENET,
    "benchmarks/faster_rcnn_SqueezeNet.yaml",
    {"MODEL.ROI_HEADS.NUM_CLASSES": 6},
    folder="cards",
    class_names=("nine", "ten", "jack", "queen", "king", "ace"),
    source="It comes from github.com/EdjeElectronics/TensorFlow-Object-Detection-API-Tutorial-"
    "Train-Multiple-Objects-Windows-10; 296 of its images are split into 236 and 60.",
)

BLOOD_CELLS = Dataset(
    "Blood cells",
    SQUEEZENET,
    "benchmarks/faster_rcnn_SqueezeNet.yaml",
    {
        "MODEL.ROI_HEADS.NUM_CLASSES": 3,
        # Platelets need stride 8 and small anchors. Micrographs differ more from ImageNet, so more
        # of the backbone is trained.
        "MODEL.TORCHVISION.OUT_FEATURES": ["stage3"],
        "MODEL.RPN.IN_FEATURES": ["stage3"],
        "MODEL.ROI_HEADS.IN_FEATURES": ["stage3"],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 36, 84]],
        "MODEL.BACKBONE.FREEZE_AT": 2,
        "SOLVER.BASE_LR": 0.01,
    },
    folder="bccd",
    class_names=("RBC", "WBC", "Platelets"),
    source="It is github.com/Shenggan/BCCD_Dataset; 292 of its images are split into 205 and 87.",
)

DATASETS = {
    "cards": PLAYING_CARDS,
    "bccd": BLOOD_CELLS,
    "bccd-rare": BLOOD_CELLS._replace(
        title="Rare blood cells",
        options={
            **BLOOD_CELLS.options,
            "MODEL.ROI_HEADS.NUM_CLASSES": 2,
            "DATASETS.DIFFICULT": "train",  # none is, and the files have boxes that are dropped
        },
        class_names=("WBC", "Platelets"),
        background_classes=("RBC",),
    ),
    "clutter": Dataset(
        "The demo's synthetic images",
        "Faster R-CNN, part of ResNet-18, not pretrained",
        "demo/faster_rcnn_R_18.yaml",
        # Half of the demo's images per step, and the iterations of the photographs.
        {
            "SOLVER.IMS_PER_BATCH": 2,
            "SOLVER.BASE_LR": 0.01,
            "SOLVER.MAX_ITER": 700,
            "SOLVER.STEPS": (525, 650),
        },
        pretrained=False,
    ),
}

# Explicit, so that results stay comparable when a default changes.
NO_WARMUP: Options = {"MODEL.ROI_HEADS.NAME": "OHEMROIHeads", "MODEL.OHEM.WARMUP_ITERS": 0}
PAPER: Options = {**NO_WARMUP, "MODEL.OHEM.FOREGROUND": "mined"}
BACKGROUND: Options = {**NO_WARMUP, "MODEL.OHEM.FOREGROUND": "sampled"}
# Random sampling then takes as long as mining does for 700 and for 1,200 iterations.
LONGER: Options = {"SOLVER.MAX_ITER": 1200, "SOLVER.STEPS": (900, 1114)}
LONGEST: Options = {"SOLVER.MAX_ITER": 2100, "SOLVER.STEPS": (1575, 1950)}

RECIPES = {
    "stock": Recipe("Random sampling", {}),
    "paper": Recipe("OHEM, no warm-up", PAPER),
    "background": Recipe("Background mining, no warm-up", BACKGROUND),
    "stock, longer": Recipe("Random sampling, 1,200 iterations", LONGER),
    "paper, longer": Recipe("OHEM, no warm-up, 1,200 iterations", {**PAPER, **LONGER}),
    "background, longer": Recipe(
        "Background mining, no warm-up, 1,200 iterations", {**BACKGROUND, **LONGER}
    ),
    "stock, longest": Recipe("Random sampling, 2,100 iterations", LONGEST),
}

# The paper's recipe with one thing changed.
ONE_THING = {
    f"paper, {name}": Recipe(f"OHEM, {title}", {**PAPER, **changes})
    for name, title, changes in (
        ("no NMS", "no NMS", {"MODEL.OHEM.NMS_THRESH": 1.0}),
        ("NMS .5", "NMS at an IoU of .5", {"MODEL.OHEM.NMS_THRESH": 0.5}),
        ("NMS .9", "NMS at an IoU of .9", {"MODEL.OHEM.NMS_THRESH": 0.9}),
        ("NMS per label", "NMS per label", {"MODEL.OHEM.NMS_PER_CLASS": True}),
        ("1:3", "at most a quarter foreground", {"MODEL.OHEM.POSITIVE_FRACTION": 0.25}),
        ("classification", "ranking without box loss", {"MODEL.OHEM.BOX_LOSS_WEIGHT": 0.0}),
        ("box .2", "ranking with box loss x .2", {"MODEL.OHEM.BOX_LOSS_WEIGHT": 0.2}),
        ("late", "warm-up of half the training", {"MODEL.OHEM.WARMUP_ITERS": 350}),
        ("L1", "L1 box loss", {"MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.0}),
        ("GIoU", "GIoU box loss", {"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "giou"}),
        ("no clipping", "no gradient clipping", {"SOLVER.CLIP_GRADIENTS.ENABLED": False}),
    )
}
RECIPES.update(ONE_THING)

# A limit on the RoIs that mining looks at, of some 400 per image.
POOL_SIZES = (64, 128, 256)
POOL = {
    kind: {
        f"{kind}, pool {size}": Recipe(
            f"{title} among {size} RoIs", {**options, "MODEL.OHEM.POOL_SIZE": size}
        )
        for size in POOL_SIZES
    }
    for kind, title, options in (
        ("paper", "OHEM", PAPER),
        ("background", "Background mining", BACKGROUND),
    )
}
RECIPES.update({**POOL["paper"], **POOL["background"]})
# A step with OHEM among 128 RoIs takes 1.26 times as long as one of random sampling.
RECIPES["stock, 880"] = Recipe(
    "Random sampling, 880 iterations", {"SOLVER.MAX_ITER": 880, "SOLVER.STEPS": (660, 817)}
)

RECIPES["paper, half precision"] = Recipe(
    "OHEM, read-only pass in half precision", {**PAPER, "MODEL.OHEM.MINING_HALF_PRECISION": True}
)

SEEDS = (1, 2, 3, 4, 5)  # chosen before the first run; all of them are reported

EXPERIMENTS = {
    "main": Experiment(tuple(DATASETS), ("stock", "paper", "background", "stock, longer"), SEEDS),
    "longer": Experiment(
        ("cards",),
        ("stock, longer", "paper, longer", "background, longer", "stock, longest"),
        SEEDS,
    ),
    "pool": Experiment(
        ("cards", "bccd-rare"),
        ("stock", *POOL["paper"], "paper", *POOL["background"], "background", "stock, 880"),
        SEEDS[:3],
        has_times=False,
    ),
    "half precision": Experiment(
        ("cards", "bccd-rare"), ("paper", "paper, half precision"), SEEDS[:3], has_times=False
    ),
    "one thing": Experiment(("cards",), ("paper", *ONE_THING), SEEDS[:1]),
}


def options_of(run: Run) -> dict[str, Any]:
    """
    Returns:
        dict[str, Any]: everything that a run sets over the dataset's config.
    """
    return {**DATASETS[run.dataset].options, **RECIPES[run.recipe].options}
