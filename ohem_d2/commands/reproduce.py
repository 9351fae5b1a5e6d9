"""
Train and test what the paper reports, and tell how far the results are from it.

    %(prog)s --datasets DIR --weights vgg16-397923af.pth
    %(prog)s --datasets DIR --weights vgg16-397923af.pth --rows table1/VGG16 --seeds 1 2 3
    %(prog)s --rows table1 --list
    %(prog)s --rows table1 --dry-run

First it lists all that is missing. Whenever it is stopped, the same command goes on where it was.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..engine import InputError
from ..reproduction.cost import measure_costs
from ..reproduction.inputs import find_missing, notes
from ..reproduction.report import write_report
from ..reproduction.results import collect, figure_3
from ..reproduction.rows import FIGURE_3, Row, choose_rows, trainings_of
from ..reproduction.run import run_chains, run_shared
from ..reproduction.settings import Settings
from ..reproduction.steps import plan_chains, plan_shared
from .command_line import exit_on_error, make_parser

LIST_HEADERS = ("row", "what", "training", "iterations", "images", "hours", "GB on disk")


def list_rows(rows: list[Row], settings: Settings) -> str:
    """
    Returns:
        str: a table of what each row costs. A training counts in its first row.
    """
    costs = measure_costs(trainings_of(rows), settings)
    cells: list[list[Any]] = []
    for row in rows:
        cells.append([row.name, row.title, row.training.name])
        if row.training in costs:
            cost = costs.pop(row.training)
            cells[-1] += [cost.iterations, cost.images, cost.hours, cost.bytes / 1e9]
    total = [sum(x[i] for x in cells if len(x) > i) for i in range(3, 7)]
    floats = ("", "", "", ",.0f", ",.0f", ".1f", ".1f")
    return tabulate(
        [*cells, ["all of them, once", "", "", *total]],
        LIST_HEADERS,
        "github",
        floatfmt=floats,
        intfmt=",",
    )


def check(rows: list[Row], settings: Settings, seeds: list[int], jobs: int) -> list[str]:
    """
    Returns:
        list[str]: all that is missing.
    """
    costs = measure_costs(trainings_of(rows), settings)
    left = [
        (training, cost)
        for seed in seeds
        for training, cost in costs.items()
        if not (settings.folder(training, seed) / "model_final.pth").exists()
    ]
    hours = sum(x.hours for _, x in left)
    print(f"{len(left)} trainings are left, of {hours:.1f} hours in all, on this machine.")
    return find_missing(rows, settings, sum(x.bytes for _, x in left), jobs)


def run(args: argparse.Namespace) -> None:
    rows = choose_rows(args.rows)
    with_figure = not args.rows or "figure3" in args.rows
    weights = {"VGG16": args.weights, "VGG_CNN_M_1024": args.vgg_m_weights}
    settings = Settings(
        args.datasets,
        args.output,
        {k: x for k, x in weights.items() if x},
        args.boxes,
        args.scale,
        args.num_gpus,
        args.opts,
    )
    check_arguments(args)
    if args.list:
        print(list_rows(rows, settings))
        return
    shared = plan_shared(rows, settings)
    measured = list(FIGURE_3.values()) if with_figure else []
    chains = plan_chains(rows, settings, args.seeds, measured)
    missing = check(rows, settings, args.seeds, args.jobs)
    for note in notes(rows, settings):
        print(f"Note: {note}")
    if args.dry_run:
        print("".join(f"Missing: {x}\n" for x in missing), end="")
        for step in [*shared, *(x for chain in chains for x in chain)]:
            state = " (done)" if step.is_done() else ""
            print(f"{step.title}{state}:\n  ohem-d2 {shlex.join(step.command)}")
        return
    if missing:
        raise InputError("Missing:\n" + "\n".join(f"- {x}" for x in missing))
    settings.keep()

    def report() -> str:
        numbers = collect(rows, settings, args.seeds)
        curves = figure_3(settings, args.seeds) if with_figure else {}
        return write_report(settings.output, numbers, curves, describe(settings, args.seeds))

    report()
    run_shared(shared, settings)
    failures = run_chains(chains, settings, args.jobs, after_each=report)
    print(f"\n{report()}\nOpen {settings.output / 'index.html'}")
    if failures:
        raise InputError(
            f"{len(failures)} of {len(chains)} trainings failed, see above. The same command tries "
            "them again."
        )


def check_arguments(args: argparse.Namespace) -> None:
    """
    Raises:
        InputError: if a value makes no sense.
    """
    if not 0 < args.scale <= 1:
        raise InputError(f"--scale must be above 0 and at most 1, not {args.scale}.")
    for name in ("num_gpus", "jobs"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1.")
    if len(set(args.seeds)) < len(args.seeds) or min(args.seeds) < 0:
        raise InputError("--seeds must be different numbers from 0 on.")


def describe(settings: Settings, seeds: list[int]) -> dict[str, str]:
    """
    Returns:
        dict[str, str]: what to know of all rows, by title.
    """
    cfg = settings.config(next(iter(FIGURE_3.values())).training)
    about = {
        "Ours": f"the mean and the standard deviation over n of the seeds "
        f"{', '.join(map(str, seeds))}; hours of all of them",
        "Tests": f"the same for all rows: detections with a score above "
        f"{cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST}, at most {cfg.TEST.DETECTIONS_PER_IMAGE} an "
        "image. The authors' scripts keep 2,000 above .00001 with OHEM, and 100 above .05 without",
        "PASCAL VOC": "AP50 is VOC07's mAP at 11 points. Rows on VOC07++12 end with the files "
        "comp4_det_test_*.txt in runs/, for the evaluation server of VOC12",
        "COCO": "ours is on val 2014, the paper's on test-dev",
        "The paper": "its numbers are known from reviews and from its authors' README, those with "
        "* from memory, and none has been compared with the paper itself yet",
        "Weights": "of VGG16, torchvision's, and not those that the authors had from Caffe",
    }
    if settings.scale != 1:
        about["Schedules"] = f"{settings.scale:g} of the paper's: compare nothing with the paper"
    if settings.opts:
        about["Options"] = shlex.join(settings.opts)
    return about


def main() -> None:
    parser = make_parser(__doc__)
    datasets = os.getenv("DETECTRON2_DATASETS", "datasets")
    parser.add_argument(
        "--datasets",
        type=Path,
        default=Path(datasets),
        help="the folder of VOC2007, VOC2012 and coco (default: DETECTRON2_DATASETS, or datasets)",
    )
    parser.add_argument("--weights", type=Path, help="torchvision's vgg16-397923af.pth")
    parser.add_argument("--vgg-m-weights", type=Path, help="VGG_CNN_M_1024.v2.caffemodel")
    parser.add_argument(
        "--boxes",
        type=Path,
        help="a folder with the selective-search boxes of Fast R-CNN's authors, "
        "voc_2007_trainval.mat and so on. Without, they are computed",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        default=[],
        metavar="ROW",
        help="names, or what they begin with, such as table1/VGG16; figure3. Default: all",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], metavar="SEED")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the schedules, such as .01 for a trial"
    )
    parser.add_argument("--num-gpus", type=int, default=1, help="for each training (default: 1)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once (default: 1)")
    parser.add_argument("--output", type=Path, default=Path("output/reproduce"), help="a folder")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--list", action="store_true", help="list the rows and what each costs")
    modes.add_argument("--dry-run", action="store_true", help="print what is missing and commands")
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config options for all rows, after all other arguments",
    )
    args = parser.parse_args()
    try:
        with exit_on_error():
            run(args)
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from here.")
