"""
Try all faults and kills, and write docs/reliability.md and docs/reliability_full.md:

    PYTHONPATH=tests python -W ignore -m faults

It takes a quarter of an hour on two cores, and fails if a fault ends badly.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from conftest import ROOT
from tqdm import tqdm

from benchmarks.provenance import made_by, provenance

from . import FAULTS
from .kills import VARIANTS, kill_trainings
from .report import write_reports
from .running import FORK, GOOD, run_fault
from .sound_folder import make_sound_folder


def try_fault(sound: Path, i: int) -> Any:
    return run_fault(FAULTS[i], sound)  # by its number: a fault cannot be pickled


def run_all(function: Callable[[Any], Any], arguments: Any, unit: str, processes: int) -> list[Any]:
    with ProcessPoolExecutor(processes, FORK) as pool:
        return list(tqdm(pool.map(function, arguments), total=len(arguments), unit=unit))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--kills", type=int, default=65, help="in all (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="default: docs/")
    args = parser.parse_args()
    origin = provenance()  # before files are edited while it runs
    with tempfile.TemporaryDirectory() as root:
        sound = Path(root, "sound")
        make_sound_folder(sound)
        results = run_all(partial(try_fault, sound), range(len(FAULTS)), "fault", args.processes)
        kill = partial(kill_trainings, sound, kills=args.kills // len(VARIANTS))
        kills = run_all(kill, list(VARIANTS), "variant", args.processes)
    write_reports(args.output, results, kills, made_by("make faults", pd.DataFrame([origin])))
    bad = [x for x in results if x.outcome not in GOOD]
    for x in bad:
        print(f"{x.outcome}: {x.kind}: {x.name}: {x.reader}: {x.message}", file=sys.stderr)
    for x in kills:
        print(*x.problems, sep="\n", file=sys.stderr)
    if bad or any(x.problems or x.equal < x.trainings for x in kills):
        sys.exit(1)


if __name__ == "__main__":
    main()
