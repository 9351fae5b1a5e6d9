"""
Train detectors that differ only in how RoIs are sampled, on several datasets and with several
seeds, and append a line per run to benchmarks/results/sampling_*.jsonl.

    python -m benchmarks.sampling.compare --data DATA --classifier squeezenet1_0.pth --jobs 2 main

It can be stopped at any time: the same command does what is left. A run that was stopped starts
over, because a resumed one would see its images in another order.

DATA holds a folder per dataset, in the layout of PASCAL VOC; benchmarks/sampling/experiments.py
says where to get them. The classifier is torchvision's squeezenet1_0, trained on ImageNet with the
input of configs/benchmarks/faster_rcnn_SqueezeNet.yaml.
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
from pathlib import Path
from threading import Lock

import torch
from tqdm import tqdm

from benchmarks.laboratory.prepare import convert_classifier
from benchmarks.provenance import RESULTS, ROOT, require_clean_commit
from benchmarks.sampling.datasets import check_data
from benchmarks.sampling.experiments import CONFIGS, DATASETS, EXPERIMENTS, Run
from benchmarks.sampling.results import read_runs, results_file
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.engine import InputError

SQUEEZENET = CONFIGS / "benchmarks/faster_rcnn_SqueezeNet.yaml"
OUTPUT = ROOT / "output/compare_sampling"


class Lab:
    """
    Makes runs, each in a process and a folder of its own, and records them.
    """

    def __init__(self, args: argparse.Namespace):
        self.data = args.data.resolve()
        self.output = args.output.resolve()
        self.results = args.output.resolve() / "trial_results" if args.trial else RESULTS
        self.trial = args.trial
        self.jobs = args.jobs
        self.backbone_weights = self.output / "backbone.pth"
        self._lock = Lock()  # of the files of results
        self._started = count()

    def missing(self, runs: Sequence[Run]) -> list[Run]:
        """
        Returns:
            list[Run]: those that are not recorded.
        """
        if self.trial:
            return list(runs)
        recorded = set(
            read_runs(self.results)[list(Run._fields)].itertuples(index=False, name=None)
        )
        return [x for x in runs if x not in recorded]

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
        folder = self.output / run.dataset / f"{run.recipe}, seed {run.seed}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [
            *(sys.executable, "-W", "ignore", "-m", "benchmarks.sampling.run"),
            *("--data", str(self.data), "--backbone-weights", str(self.backbone_weights)),
            *("--output", str(folder), *(["--trial"] if self.trial else [])),
            *map(str, run),
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
        with self._lock, open(results_file(self.results, run.dataset), "a") as file:
            file.write(line + "\n")
        for checkpoint in folder.glob("*.pth"):
            checkpoint.unlink()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of the datasets")
    parser.add_argument(
        "--classifier", type=Path, required=True, help="weights of torchvision's squeezenet1_0"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument(
        "--datasets", nargs="+", choices=DATASETS, default=list(DATASETS), help="default: all"
    )
    parser.add_argument("--seeds", nargs="+", type=int, help="default: all")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the folders of the runs")
    parser.add_argument(
        "--trial",
        action="store_true",
        help="accept a changed work tree, and write the results to trial_results/ in --output, "
        "which the report does not read",
    )
    parser.add_argument(
        "experiments", nargs="*", help=f"some of: {', '.join(EXPERIMENTS)} (default: all)"
    )
    args = parser.parse_args(arguments)

    unknown = [x for x in args.experiments if x not in EXPERIMENTS]
    if unknown:
        raise InputError(
            f"There is no experiment {unknown[0]}. There are: {', '.join(EXPERIMENTS)}."
        )
    if not args.trial:
        require_clean_commit()
    experiments = [EXPERIMENTS[x] for x in args.experiments or EXPERIMENTS]
    # Experiments share runs. In the order of the seeds, so that a part can be compared at any time.
    runs = sorted(dict.fromkeys(x for e in experiments for x in e.runs()), key=lambda x: x.seed)
    runs = [x for x in runs if x.dataset in args.datasets]
    runs = [x for x in runs if args.seeds is None or x.seed in args.seeds]

    lab = Lab(args)
    missing = lab.missing(runs)
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them recorded.")
    for dataset in dict.fromkeys(x.dataset for x in missing):
        check_data(dataset, args.data)
    lab.output.mkdir(parents=True, exist_ok=True)
    convert_classifier(str(SQUEEZENET), args.classifier, lab.backbone_weights, 1.0)
    if any(DATASETS[x.dataset].folder is None for x in missing):
        generate_clutter(os.path.abspath(os.getenv("DETECTRON2_DATASETS", "datasets")))
    lab.make(missing)


if __name__ == "__main__":
    try:
        main()
    except InputError as e:
        sys.exit(f"compare: {e}")
