"""
The time of a training step of each recipe, relative to one of random sampling: what takes longer
gets fewer iterations at equal time.

    python -m benchmarks.laboratory.times fpn --data DATA --classifier mobilenet_v2.pth

All recipes train on the same images in turns, so that pauses of the machine count for each of them.
Replaces the lines of these datasets in benchmarks/results/laboratory_times.jsonl; with --recipes or
--rois, only those of what they choose. Runs at equal time that were made with the times before are
then of no use.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import product
from statistics import quantiles
from time import perf_counter, process_time
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from tqdm import trange

from benchmarks.laboratory.experiments import Run, options_of
from benchmarks.laboratory.laboratories import DATASETS, LABORATORIES
from benchmarks.laboratory.prepare import Materials, add_arguments, prepare
from benchmarks.laboratory.recipes import MAIN, RECIPES
from benchmarks.laboratory.run import to_opts
from benchmarks.laboratory.step_ratios import ALL, KEY, TIMES
from benchmarks.measure import synchronize
from benchmarks.provenance import RESULTS, provenance, require_clean_commit
from ohem_d2.data import build_train_loader
from ohem_d2.engine import fall_back_to_cpu, load_config
from ohem_d2.utils import InputError, atomic_file

# Small enough for heads that begin at random; the time does not depend on it.
LEARNING_RATE = 1e-3
# Steps begin after any warm-up, and an RPN that was not trained proposes as many boxes as it may.
FIRST_ITERATION = 10**6

Key = tuple[Any, ...]  # the values of KEY


class Stepper:
    """
    Trains a model, a step at a time.
    """

    def __init__(self, run: Run, materials: Materials, shared: dict[str, Any]) -> None:
        cfg = load_config(materials.config, to_opts({**shared, **options_of(run)}))
        fall_back_to_cpu(cfg)
        seed_all_rng(0)
        self.cfg = cfg
        self.model = build_model(cfg).train()
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self.optimizer = build_optimizer(cfg, self.model)
        self.storage = EventStorage(FIRST_ITERATION)

    def step(self, batch: list[dict]) -> float:
        """
        Returns:
            float: its seconds.
        """
        # On a CPU, with one thread, that of the process: others may run beside it.
        now = perf_counter if torch.cuda.is_available() else process_time
        synchronize()
        start = now()
        with self.storage:
            losses = sum(self.model(batch).values())
        self.optimizer.zero_grad()
        losses.backward()
        self.optimizer.step()
        synchronize()
        return now() - start


def measure_steps(
    materials: Materials, dataset: str, recipes: Sequence[tuple[str, int]], rounds: int
) -> list[list[float]]:
    """
    Args:
        recipes: names and RoIs per image.

    Returns:
        list[list[float]]: for each recipe, the seconds of each step after the first third.
    """
    shared = materials.options(dataset)
    steppers = [
        Stepper(Run(materials.laboratory, dataset, *x, LEARNING_RATE, 1000, 0), materials, shared)
        for x in recipes
    ]
    loader = iter(build_train_loader(steppers[0].cfg))
    seconds: list[list[float]] = [[] for _ in recipes]
    for _ in trange(rounds, desc=dataset):
        batch = next(loader)
        for stepper, times in zip(steppers, seconds, strict=True):
            times.append(stepper.step(batch))
    return [x[rounds // 3 :] for x in seconds]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument(
        "--rounds", type=int, default=120, help="steps of each recipe (default: 120)"
    )
    parser.add_argument(
        "--datasets",
        nargs="+",
        choices=DATASETS,
        metavar="NAME",
        help="default: those of the laboratory",
    )
    parser.add_argument(
        "--recipes",
        nargs="+",
        choices=RECIPES,
        metavar="NAME",
        help="default: the main ones",
    )
    parser.add_argument(
        "--rois", nargs="+", type=int, metavar="B", help="default: those that the laboratory tries"
    )
    args = parser.parse_args(arguments)
    require_clean_commit()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # as when several runs share the cores
    lab = LABORATORIES[args.laboratory]
    datasets = args.datasets or lab.datasets
    materials = prepare(args, datasets)
    reference = ("random", lab.rois)
    chosen = list(product(args.recipes or MAIN, args.rois or lab.tried_rois))
    recipes = list(dict.fromkeys([reference, *chosen]))
    recorded = _read_times()
    # An RPN leaves the same number of boxes of all photographs.
    if materials.has_proposals:
        keys = {x: (args.laboratory, x) for x in datasets}
    else:
        keys = {datasets[0]: (args.laboratory, ALL)}
    if args.recipes or args.rois:
        scales = {k: _recorded_ratio(recorded, (*x, *reference)) for k, x in keys.items()}
    else:
        scales = dict.fromkeys(keys, 1.0)
        recorded = {k: x for k, x in recorded.items() if k[:2] not in keys.values()}
    for dataset, scale in scales.items():
        seconds = measure_steps(materials, dataset, recipes, args.rounds)
        for recipe, times in zip(recipes, seconds, strict=True):
            if recipe in chosen:
                line = _line((*keys[dataset], *recipe), times, seconds[0], scale)
                recorded[_key(line)] = line
                print(*(f"{k} {v}" for k, v in list(line.items())[1:7]), sep=", ", flush=True)
    with atomic_file(RESULTS / TIMES) as file:
        file.write_text("".join(json.dumps(x) + "\n" for x in recorded.values()), encoding="utf-8")


def _read_times() -> dict[Key, dict[str, Any]]:
    path = RESULTS / TIMES
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return {_key(x): x for x in map(json.loads, text.splitlines())}


def _recorded_ratio(recorded: dict[Key, dict[str, Any]], key: Key) -> float:
    if key not in recorded:
        _, dataset, recipe, rois = key
        raise InputError(
            f"{TIMES} has no time of {recipe} with {rois} RoIs on {dataset} yet: "
            "measure without --recipes and --rois first."
        )
    return recorded[key]["ratio"]


def _line(key: Key, times: list[float], reference: list[float], scale: float) -> dict[str, Any]:
    """
    Args:
        times, reference: the seconds of steps on the same images.
        scale (float): the ratio that the reference is recorded with.
    """
    ratios = [scale * x / y for x, y in zip(times, reference, strict=True)]
    low, middle, high = quantiles(ratios, n=4)
    return {
        **dict(zip(KEY, key, strict=True)),
        "ratio": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "ms": round(1000 * quantiles(times, n=4)[1], 1),
        **provenance(),
    }


def _key(line: dict[str, Any]) -> Key:
    return tuple(line[x] for x in KEY)


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"times: {e}")
