"""
Train the detector of a laboratory with recipes that differ only in how RoIs are sampled, on several
datasets and with several seeds, and append a line per run to benchmarks/results/laboratory_*.jsonl.

    python -m benchmarks.laboratory.compare fpn --data DATA --classifier mobilenet_v2.pth --jobs 2 \
        --experiments main

It can be stopped at any time: the same command does what is left. A run that was stopped starts
over, because a resumed one would see its images in another order.

DATA holds a folder per dataset, in the layout of PASCAL VOC; benchmarks/laboratory/laboratories.py
says where to get them. The classifier is torchvision's mobilenet_v2 or, for the laboratory "fast",
squeezenet1_0, trained on ImageNet with the input of the laboratory's config. For "r50" it is a
checkpoint of detectron2's ResNet-50 with RES2_OUT_CHANNELS 128 and WIDTH_PER_GROUP 32.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import count
from threading import Lock

import pandas as pd
import torch
from tqdm import tqdm

from benchmarks.laboratory.experiments import Run, experiments
from benchmarks.laboratory.laboratories import DATASETS
from benchmarks.laboratory.prepare import Materials, add_arguments, prepare
from benchmarks.laboratory.recipes import RECIPES
from benchmarks.laboratory.results import read_runs, results_file
from benchmarks.provenance import RESULTS, ROOT, require_clean_commit
from ohem_d2.utils import InputError


class Lab:
    """
    Makes runs, each in a process and a folder of its own, and records them.
    """

    def __init__(self, args: argparse.Namespace, materials: Materials):
        self.materials = materials
        self.output = args.output.resolve() / args.laboratory
        self.results = self.output / "trial_results" if args.trial else RESULTS
        self.trial = args.trial
        self.jobs = args.jobs
        self._lock = Lock()  # of the file of results
        self._started = count()

    def make(self, runs: Sequence[Run]) -> None:
        """
        Raises:
            InputError: if a run fails, after those that are under way have ended.
        """
        self.results.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._make, run) for run in runs]
            try:
                for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _make(self, run: Run) -> None:
        folder = self.output / run.dataset / ", ".join(map(str, run[2:]))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [
            *(sys.executable, "-W", "ignore", "-m", "benchmarks.laboratory.run"),
            *("--materials", self.materials.to_json(), "--output", str(folder)),
            *(["--trial"] if self.trial else []),
            json.dumps(run),
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": str(max(len(os.sched_getaffinity(0)) // self.jobs, 1)),
        }
        if torch.cuda.is_available():  # in turns, if there are several
            device = next(self._started) % torch.cuda.device_count()
            environment["CUDA_VISIBLE_DEVICES"] = str(device)
        console = folder / "console.txt"
        with open(console, "w") as file:
            process = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
            )
        if process.returncode != 0:
            last = "\n".join(console.read_text().splitlines()[-15:])
            raise InputError(f"{last}\n{run} failed; all of its output: {console}")

        line = json.dumps(json.loads((folder / "result.json").read_text()))
        file = results_file(self.results, run.laboratory, self.materials.test_split)
        with self._lock, open(file, "a") as lines:
            lines.write(line + "\n")
        for checkpoint in folder.glob("*.pth"):
            checkpoint.unlink()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--experiments", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, metavar="NAME", help="some")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, metavar="NAME", help="some")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="some")
    parser.add_argument(
        "--trial",
        action="store_true",
        help="accept a changed work tree, and write the results to trial_results/ in --output, "
        "which the report does not read",
    )
    args = parser.parse_args(arguments)

    known = experiments(args.laboratory)
    names = args.experiments or list(known)
    unknown = [x for x in names if x not in known]
    if unknown:
        raise InputError(f"There is no experiment {unknown[0]}. There are: {', '.join(known)}.")
    if not args.trial:
        require_clean_commit()
    chosen = [known[x] for x in names]
    # Experiments share runs. In the order of the seeds, so that a part can be compared at any time.
    runs = list(dict.fromkeys(x for e in chosen for x in e.runs()))
    runs = sorted(runs, key=lambda x: x.seed)
    for field in ("dataset", "recipe", "seed"):
        some = getattr(args, f"{field}s")
        runs = [x for x in runs if some is None or getattr(x, field) in some]

    recorded = pd.DataFrame(columns=list(Run._fields))
    if not args.trial:
        recorded = read_runs(RESULTS, args.laboratory, args.test_split)
    done = set(recorded[list(Run._fields)].itertuples(index=False, name=None))
    missing = [x for x in runs if x not in done]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them recorded.")
    materials = prepare(args, list(dict.fromkeys(x.dataset for x in missing)))
    Lab(args, materials).make(missing)


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"compare: {e}")
