"""
What is compared: the experiments, and the runs that each consists of.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from benchmarks.laboratory.laboratories import (
    LABORATORIES,
    with_all_boxes,
    without_some_boxes,
)
from benchmarks.laboratory.recipes import (
    BACKGROUND_POOLED,
    HALF_PRECISION,
    MAIN,
    POOLED,
    RANKINGS,
    RECIPES,
    UNCLIPPED,
)
from benchmarks.laboratory.step_ratios import step_ratio
from benchmarks.provenance import ROOT

__all__ = [
    "CONFIGS",
    "Experiment",
    "Run",
    "Variant",
    "config_digest",
    "experiments",
    "options_of",
]

CONFIGS = ROOT / "configs"


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
            # The time does not depend on the boxes of objects.
            iterations /= step_ratio(self.laboratory, with_all_boxes(dataset), timed, rois)
        # In tens: less than a time can be measured to.
        iterations = 10 * round(iterations / 10)
        return Run(self.laboratory, dataset, recipe, rois, learning_rate, iterations, seed)

    def variant(self, recipe: str, **fields: Any) -> Variant:
        """
        Returns:
            Variant: the only one of a recipe with these fields.
        """
        (variant,) = (x for x in self.variants if x.recipe == recipe and x._replace(**fields) == x)
        return variant

    def runs(self) -> list[Run]:
        combinations = product(self.seeds, self.datasets, self.variants)
        return [self.run(dataset, variant, seed) for seed, dataset, variant in combinations]


ALL_ROIS = 2048  # more than an image has
ALL_ROIS_RATE = 0.01  # the best of the experiment "rate of all RoIs"
STABILITY_ROIS = 64  # decided before SETTINGS
R50_RATE = 0.0025  # detectron2's for 2 instead of 16 images a step
MANY_OBJECTS = ("cards", "bccd", "pcb")  # an image that lost all of its boxes is not trained on

# Chosen before the first run; all of them are reported.
SEEDS = (1, 2, 3, 4, 5)
TUNING_SEED = 0


def options_of(run: Run) -> dict[str, Any]:
    """
    Returns:
        dict[str, Any]: what a run sets over its laboratory's config, beside dataset and seed.
    """
    recipe, lab = RECIPES[run.recipe], LABORATORIES[run.laboratory]
    return {
        "MODEL.OHEM.WARMUP_ITERS": max(lab.min_warmup_iters, run.iterations // 10),
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
    "fpn": {
        "random": (32, 0.005),
        "OHEM": (32, 0.005),
        "background": (32, 0.005),
        "random, 1000 proposals": (32, 0.005),
        "background, pool 4, 1000 proposals": (32, 0.005),
    },
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
    of_one = {"fast": _of_fast, "fpn": _of_fpn, "r50": _of_r50}
    of_tuned = _of_tuned(laboratory) if laboratory in SETTINGS else {}
    return {**of_tuned, **of_one[laboratory](laboratory)}


def _experiment(
    laboratory: str,
    variants: Iterable[Variant],
    seeds: Sequence[int] = SEEDS[:3],
    datasets: Sequence[str] = (),
) -> Experiment:
    """
    Args:
        datasets: none for those that the laboratory was tuned on.
    """
    chosen = tuple(datasets or LABORATORIES[laboratory].tuned_on)
    return Experiment(laboratory, chosen, tuple(variants), tuple(seeds))


def _of_tuned(name: str) -> dict[str, Experiment]:
    lab, recipes = LABORATORIES[name], SETTINGS[name]
    mid_rate = lab.tried_rates[1]
    with_objects = [x for x in lab.datasets if x in MANY_OBJECTS]
    return {
        # First the RoIs, then the learning rate with the best number of RoIs.
        "rois": _experiment(
            name,
            [
                Variant(x, rois, mid_rate, "time", lab.tuning_factor)
                for x, rois in product(recipes, lab.tried_rois)
            ],
            [TUNING_SEED],
        ),
        "rate": _experiment(
            name,
            [
                best(name, x)._replace(learning_rate=rate, factor=lab.tuning_factor)
                for x, rate in product(recipes, lab.tried_rates)
            ],
            [TUNING_SEED],
        ),
        "main": _experiment(name, [best(name, x) for x in MAIN], SEEDS, lab.datasets),
        "OHEM in a pool": _experiment(
            name, [best(name, "OHEM", "iterations", x) for x in ("OHEM", *POOLED)]
        ),
        "background in a pool": _experiment(
            name, [best(name, "background", "iterations", x) for x in BACKGROUND_POOLED]
        ),
        "missing boxes": _experiment(
            name,
            [best(name, x) for x in MAIN],
            datasets=[without_some_boxes(x) for x in with_objects],
        ),
    }


def _of_fast(name: str) -> dict[str, Experiment]:
    lab = LABORATORIES[name]
    without_nms = best(name, "OHEM", changed="OHEM, no NMS")
    equal = [best(name, x, "iterations") for x in MAIN]
    return {
        "convergence": _experiment(name, [equal[0], equal[0]._replace(factor=2.0)]),
        "equal iterations": _experiment(
            name, [*equal, without_nms._replace(budget="iterations")], SEEDS, lab.datasets
        ),
        "no NMS": _experiment(
            name, [best(name, "random"), best(name, "OHEM"), without_nms], datasets=lab.tuned_on[:1]
        ),
        # First bg_lo: is background mining better than what the paper calls a heuristic for it?
        "bg_lo": _experiment(
            name,
            [best(name, "random", changed="bg_lo"), best(name, "random"), best(name, "background")],
            SEEDS,
            lab.datasets,
        ),
        # At half of the iterations: a step with all RoIs takes several times as long as the others.
        "rate of all RoIs": _experiment(
            name,
            [Variant("all RoIs", ALL_ROIS, rate, factor=0.5) for rate in lab.tried_rates],
            [TUNING_SEED],
        ),
        "table 1": _experiment(
            name,
            [
                best(name, "random", "iterations", "bg_lo"),
                best(name, "random", "iterations"),
                Variant("all RoIs", ALL_ROIS, ALL_ROIS_RATE),
                best(name, "OHEM", "iterations"),
            ],
        ),
    }


def _of_fpn(name: str) -> dict[str, Experiment]:
    lab = LABORATORIES[name]
    mid_rate = lab.tried_rates[1]
    # Without another NMS: behind an RPN, whose own is as strict, OHEM's finds no work.
    equal = [best(name, x, "iterations") for x in MAIN]
    ohem = best(name, "OHEM", "iterations")._replace(factor=0.5)
    return {
        # On the sets on which mining was furthest behind when trainings were shorter.
        "convergence": _experiment(
            name,
            [equal[0]._replace(factor=x) for x in (1.0, 0.5, 2.0)],
            datasets=("carplates", "plates"),
        ),
        "equal iterations": _experiment(name, equal, SEEDS, lab.datasets),
        # On those of the tuning, and on one with many errors on background, which they have not.
        "many proposals": _experiment(
            name,
            [
                best(name, "random", "iterations", "random, 1000 proposals"),
                best(name, "background", "iterations", "background, 1000 proposals"),
                equal[0],
            ],
            datasets=(*lab.tuned_on, "pcb"),
        ),
        # A pool, because a step that ranks all takes 1.4 times as long as random sampling.
        "many proposals, equal time": _experiment(
            name,
            [
                best(name, "random, 1000 proposals"),
                best(name, "background, pool 4, 1000 proposals"),
                best(name, "random"),
            ],
            SEEDS,
            lab.datasets,
        ),
        "ranking": _experiment(name, [ohem._replace(recipe=x) for x in ("OHEM", *RANKINGS)]),
        "half precision": _experiment(
            name, [ohem._replace(recipe=x) for x in ("OHEM", *HALF_PRECISION)]
        ),
        "beginning": _experiment(
            name,
            [
                Variant(recipe, STABILITY_ROIS, mid_rate, factor=0.2)
                for recipe in UNCLIPPED
                if recipe != "OHEM, no clipping, no warm-up"  # "stability" shows what it does
            ],
            SEEDS,
            lab.datasets,
        ),
        # On the sets on which a run of "beginning" collapsed.
        "whole training without clipping": _experiment(
            name,
            [
                Variant(recipe, STABILITY_ROIS, mid_rate)
                for recipe in ("random, no clipping", "OHEM, no clipping")
            ],
            datasets=("cards", "pests"),
        ),
        "stability": _experiment(
            name,
            [
                Variant(recipe, STABILITY_ROIS, rate, factor=0.2)
                for recipe, rate in product((*MAIN, *UNCLIPPED), lab.tried_rates)
            ],
            SEEDS,
        ),
    }


def _of_r50(name: str) -> dict[str, Experiment]:
    few, many = LABORATORIES[name].tried_rois
    datasets = LABORATORIES[name].datasets
    random = Variant("random", few, R50_RATE)
    mining = Variant("background, pool 4", few, R50_RATE)
    return {
        "by config alone": _experiment(
            name,
            [
                Variant("random", many, R50_RATE),
                Variant("OHEM", few, R50_RATE),
                mining,
                random,
            ],
            datasets=datasets,
        ),
        # With as many RoIs to train on: which leaves out easy ones better, mining or the RPN?
        "fewer proposals": _experiment(
            name,
            [random, mining, random._replace(recipe="random, 256 proposals")],
            datasets=datasets,
        ),
    }
