"""
What is compared: recipes, and the experiments that combine them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from benchmarks.laboratory.laboratories import LABORATORIES, without_some_boxes
from benchmarks.laboratory.step_ratios import step_ratio
from benchmarks.provenance import ROOT

__all__ = [
    "CONFIGS",
    "RECIPES",
    "Experiment",
    "Recipe",
    "Run",
    "Variant",
    "config_digest",
    "experiments",
    "options_of",
]

CONFIGS = ROOT / "configs"

Options = Mapping[str, Any]


class Recipe(NamedTuple):
    """
    How RoIs are sampled in training.
    """

    title: str
    options: Options
    pool: int = 0  # MODEL.OHEM.POOL_SIZE, as a multiple of the RoIs to train on
    timed_as: str = ""  # a recipe whose step takes as long. Empty: itself


class Variant(NamedTuple):
    """
    A row of a table.
    """

    recipe: str  # of RECIPES
    rois: int  # per image, to train on
    learning_rate: float
    budget: str = "iterations"  # or "time": as many as take the time of random sampling
    factor: float = 1.0  # of the laboratory's iterations


class Run(NamedTuple):
    laboratory: str  # of LABORATORIES
    dataset: str  # of DATASETS
    recipe: str
    rois: int
    learning_rate: float
    iterations: int
    seed: int


class Experiment(NamedTuple):
    """
    Runs that a table compares.
    """

    title: str
    laboratory: str
    datasets: tuple[str, ...]
    variants: tuple[Variant, ...]  # the others are compared with the first
    seeds: tuple[int, ...]

    def run(self, dataset: str, variant: Variant, seed: int) -> Run:
        """
        Raises:
            InputError: if it depends on a time that was not measured.
        """
        recipe, rois, learning_rate, budget, factor = variant
        iterations = LABORATORIES[self.laboratory].iterations * factor
        if budget == "time":
            timed = RECIPES[recipe].timed_as or recipe
            iterations /= step_ratio(self.laboratory, dataset, timed, rois)
        # In tens: less than a time can be measured to.
        iterations = 10 * round(iterations / 10)
        return Run(self.laboratory, dataset, recipe, rois, learning_rate, iterations, seed)

    def variant(self, recipe: str) -> Variant:
        """
        Returns:
            Variant: the only one of a recipe.
        """
        (variant,) = (x for x in self.variants if x.recipe == recipe)
        return variant

    def runs(self) -> list[Run]:
        combinations = product(self.seeds, self.datasets, self.variants)
        return [self.run(dataset, variant, seed) for seed, dataset, variant in combinations]


OHEM: Options = {"MODEL.ROI_HEADS.NAME": "OHEMROIHeads", "MODEL.OHEM.FOREGROUND": "mined"}
BACKGROUND: Options = {**OHEM, "MODEL.OHEM.FOREGROUND": "sampled"}

MAIN = {
    "random": Recipe("Random sampling", {}),
    "OHEM": Recipe("OHEM", OHEM),
    "background": Recipe("Background mining among 2 B", BACKGROUND, 2),
}

# At most so many times the RoIs to train on enter the read-only pass.
POOLED = {f"OHEM, pool {n}": Recipe(f"OHEM among {n} B", OHEM, n) for n in (8, 4, 2, 1)}
BACKGROUND_POOLED = {
    "background, all": Recipe("Background mining among all", BACKGROUND),
    **{
        f"background, pool {n}": Recipe(f"Background mining among {n} B", BACKGROUND, n)
        for n in (8, 4)
    },
    "background": MAIN["background"],
}

HALF_PRECISION = {
    "OHEM, half precision": Recipe(
        "OHEM, read-only pass in half precision", {**OHEM, "MODEL.OHEM.MINING_HALF_PRECISION": True}
    )
}

# Which box loss ranks, beside the one that trains.
RANKINGS = {
    f"OHEM, {name}": Recipe(f"OHEM, ranking by {title}", {**OHEM, **options})
    for name, title, options in (
        ("smooth L1", "smooth L1", {"MODEL.ROI_HEADS.NAME": "SmoothL1RankingROIHeads"}),
        ("GIoU", "GIoU", {"MODEL.ROI_HEADS.NAME": "GIoURankingROIHeads"}),
        ("classification", "classification alone", {"MODEL.OHEM.BOX_LOSS_WEIGHT": 0.0}),
    )
}

# Both laboratories clip gradients. Without: what else keeps mining from killing a head.
UNCLIPPED = {
    f"{name}, no clipping{change}": Recipe(
        f"{MAIN[name].title}, no clipping{change}",
        {**MAIN[name].options, "SOLVER.CLIP_GRADIENTS.ENABLED": False, **options},
        MAIN[name].pool,
    )
    for name, change, options in (
        ("random", "", {}),
        ("OHEM", "", {}),
        ("background", "", {}),
        ("OHEM", ", no warm-up", {"MODEL.OHEM.WARMUP_ITERS": 0}),
        ("OHEM", ", warm-up of 150", {"MODEL.OHEM.WARMUP_ITERS": 150}),
        ("OHEM", ", growing share", {"MODEL.ROI_HEADS.NAME": "GrowingOHEMROIHeads"}),
    )
}

# The NMS takes no time that counts, the read-only pass does.
WITHOUT_NMS = {
    "OHEM, no NMS": Recipe("OHEM, no NMS", {**OHEM, "MODEL.OHEM.NMS_THRESH": 1.0}, timed_as="OHEM"),
    "OHEM, pool 2, no NMS": Recipe(
        "OHEM among 2 B, no NMS", {**OHEM, "MODEL.OHEM.NMS_THRESH": 1.0}, 2, timed_as="background"
    ),
}

RECIPES = {
    **MAIN,
    **WITHOUT_NMS,
    "bg_lo": Recipe("Random sampling, bg_lo .1", {"MODEL.ROI_HEADS.BG_LO": 0.1}),
    **POOLED,
    **BACKGROUND_POOLED,
    **HALF_PRECISION,
    **RANKINGS,
    **UNCLIPPED,
}
ALL_ROIS = 2048  # more than an image has
ALL_ROIS_RATE = 0.01  # the best of the experiment "rate of all RoIs"
STABILITY_ROIS = 64  # decided before SETTINGS
MANY_OBJECTS = ("cards", "bccd", "pcb")  # an image that lost all of its boxes is not trained on

# Chosen before the first run; all of them are reported.
SEEDS = (1, 2, 3, 4, 5)
TUNING_SEED = 0


def options_of(run: Run) -> dict[str, Any]:
    """
    Returns:
        dict[str, Any]: what a run sets over its laboratory's config, beside dataset and seed.
    """
    recipe = RECIPES[run.recipe]
    return {
        **recipe.options,
        **({"MODEL.OHEM.POOL_SIZE": recipe.pool * run.rois} if recipe.pool else {}),
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": run.rois,
        "SOLVER.BASE_LR": run.learning_rate,
        "SOLVER.MAX_ITER": run.iterations,
        "SOLVER.STEPS": (int(0.75 * run.iterations), int(0.93 * run.iterations)),
    }


@cache  # every recorded line is compared with it
def config_digest(config: str) -> str:
    """
    Returns:
        str: a digest of a config file's content: results of another one are not comparable.
    """
    content = CfgNode.load_yaml_with_base(str(CONFIGS / config))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


# The recipes that a laboratory tunes: RoIs per image and learning rate, the best of the
# experiments "rois" and "rate".
SETTINGS: dict[str, dict[str, tuple[int, float]]] = {
    "fast": {
        "random": (128, 0.01),
        "OHEM": (64, 0.01),
        "background": (64, 0.01),
        "OHEM, pool 2, no NMS": (64, 0.01),
    },
    "fpn": {"random": (32, 0.005), "OHEM": (32, 0.005), "background": (32, 0.005)},
}


def best(laboratory: str, recipe: str, budget: str = "time", changed: str = "") -> Variant:
    """
    Returns:
        Variant: a recipe of SETTINGS with its settings, or one that differs in a part of it.
    """
    return Variant(changed or recipe, *SETTINGS[laboratory][recipe], budget)


def experiments(laboratory: str) -> dict[str, Experiment]:
    """
    Returns:
        dict[str, Experiment]: the experiments of a laboratory, by name.
    """
    lab = LABORATORIES[laboratory]

    def experiment(
        title: str, variants: Iterable[Variant], seeds: Sequence[int], datasets: Sequence[str] = ()
    ) -> Experiment:
        chosen = tuple(datasets or lab.tuned_on)
        return Experiment(title, laboratory, chosen, tuple(variants), tuple(seeds))

    recipes = SETTINGS[laboratory]
    mid_rate = lab.tried_rates[1]
    random = best(laboratory, "random", "iterations")
    ohem = best(laboratory, "OHEM")
    ohem_without_nms = best(laboratory, "OHEM", changed="OHEM, no NMS")
    found = {
        "convergence": experiment(
            "Longer training", [random, random._replace(factor=2.0)], SEEDS[:3]
        ),
        # First the RoIs, then the learning rate with the best number of RoIs.
        "rois": experiment(
            "How many RoIs",
            [Variant(x, rois, mid_rate, "time") for x, rois in product(recipes, lab.tried_rois)],
            [TUNING_SEED],
        ),
        "rate": experiment(
            "Which learning rate",
            [
                best(laboratory, x)._replace(learning_rate=rate)
                for x, rate in product(recipes, lab.tried_rates)
            ],
            [TUNING_SEED],
        ),
        "main": experiment(
            "Random sampling and mining at equal time",
            [best(laboratory, recipe) for recipe in MAIN],
            SEEDS,
            lab.datasets,
        ),
        "equal iterations": experiment(
            "Random sampling and mining at equal iterations",
            [
                *(best(laboratory, recipe, "iterations") for recipe in MAIN),
                # Behind an RPN, whose own NMS is as strict, OHEM's finds no work.
                *([ohem_without_nms._replace(budget="iterations")] if laboratory == "fast" else []),
            ],
            SEEDS,
            lab.datasets,
        ),
        "OHEM in a pool": experiment(
            "OHEM in a pool",
            [best(laboratory, "OHEM", "iterations", x) for x in ("OHEM", *POOLED)],
            SEEDS[:3],
        ),
        "background in a pool": experiment(
            "Background mining in a pool",
            [best(laboratory, "background", "iterations", x) for x in BACKGROUND_POOLED],
            SEEDS[:3],
        ),
        "missing boxes": experiment(
            "Missing boxes",
            [best(laboratory, recipe) for recipe in MAIN],
            SEEDS[:3],
            [without_some_boxes(x) for x in lab.datasets if x in MANY_OBJECTS],
        ),
    }
    if laboratory == "fpn":
        found["ranking"] = experiment(
            "What ranks",
            [best(laboratory, "OHEM", "iterations", x) for x in ("OHEM", *RANKINGS)],
            SEEDS[:3],
        )
        found["half precision"] = experiment(
            "Half precision",
            [best(laboratory, "OHEM", "iterations", x) for x in ("OHEM", *HALF_PRECISION)],
            SEEDS[:3],
        )
        found["longer"] = experiment(
            "Random sampling and mining at equal iterations, twice as many",
            [best(laboratory, recipe, "iterations")._replace(factor=2.0) for recipe in MAIN],
            SEEDS[:3],
            lab.datasets,
        )
        found["beginning"] = experiment(
            "How mining begins, at the rate at which it matters",
            [
                Variant(recipe, STABILITY_ROIS, mid_rate, factor=0.4)
                for recipe in (
                    "random, no clipping",
                    "OHEM, no clipping",
                    "OHEM, no clipping, growing share",
                )
            ],
            SEEDS,
            lab.datasets,
        )
        found["stability"] = experiment(
            "Stability",
            [
                Variant(recipe, STABILITY_ROIS, rate, factor=0.4)
                for recipe, rate in product((*MAIN, *UNCLIPPED), lab.tried_rates)
            ],
            SEEDS,
        )
    else:
        found["no NMS"] = experiment(
            "OHEM without its NMS",
            [best(laboratory, "random"), ohem, ohem_without_nms],
            SEEDS[:3],
            lab.tuned_on[:1],
        )
        found["rate of all RoIs"] = experiment(
            "Which learning rate, if all RoIs are trained on",
            [Variant("random", ALL_ROIS, rate) for rate in lab.tried_rates],
            [TUNING_SEED],
        )
        found["table 1"] = experiment(
            "The order of the paper's Table 1",
            [
                best(laboratory, "random", "iterations", "bg_lo"),
                best(laboratory, "random", "iterations"),
                Variant("random", ALL_ROIS, ALL_ROIS_RATE),
                best(laboratory, "OHEM", "iterations"),
            ],
            SEEDS[:3],
        )
    return found
