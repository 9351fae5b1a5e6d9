#!/usr/bin/env python3
"""
Train detectors that differ in how RoIs are sampled, on several datasets and with several seeds, and
keep what came out in benchmarks/results/sampling_*.jsonl, one line a run. benchmarks/report.py
makes docs/results.md of it.

    python benchmarks/compare_sampling.py --data DATA --classifier squeezenet1_0.pth --jobs 2
    python benchmarks/compare_sampling.py --data DATA --classifier squeezenet1_0.pth main

It can be stopped at any time: the same command does what is left. A run that was stopped begins
anew, because one that goes on from a checkpoint would see its images in another order.

DATA holds a folder for each dataset that is not made, in the layout of PASCAL VOC, see
benchmarks/sampling_experiments.py, which says what is compared. The classifier is torchvision's
squeezenet1_0, trained on ImageNet with images as configs/benchmarks/faster_rcnn_SqueezeNet.yaml has
them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

import torch
from result_files import ResultError, read_runs
from sampling_experiments import CONFIGS, DATASETS, EXPERIMENTS, Run, num_iterations
from torch import Tensor
from tqdm import tqdm

from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.engine import load_config
from ohem_d2.utils import atomic_file, read_metrics

ROOT = CONFIGS.parent
SQUEEZENET = CONFIGS / "benchmarks/faster_rcnn_SqueezeNet.yaml"


class LabError(ValueError):
    """
    What stops it. The message names it and the remedy.
    """


class Lab:
    """
    Makes runs, each in a process and a folder of its own.
    """

    def __init__(self, data: Path, backbone_weights: Path, output: Path, results: Path, jobs: int):
        """
        Args:
            data (Path): holds the folders of the datasets that are not made.
            backbone_weights (Path): a checkpoint of the backbone.
            output (Path): where the folders of the runs are.
            results (Path): where the files of results are.
            jobs (int): how many runs at a time.
        """
        self.data = data
        self.backbone_weights = backbone_weights
        self.output = output
        self.results = results
        self.jobs = jobs
        self._lock = Lock()  # of the files of results
        self._started = count()

    def missing(self, runs: list[Run]) -> list[Run]:
        """
        Returns:
            list[Run]: those that are not in the files of results.

        Raises:
            ResultError: if one of these was not made with today's options.
        """
        there = read_runs(self.results)
        return [x for x in runs if x not in there]

    def make(self, runs: list[Run]) -> None:
        """
        Make runs, and append a line for each to the files of results.

        Raises:
            LabError: if one fails, after those that are under way have ended.
        """
        self.results.mkdir(parents=True, exist_ok=True)
        iterations = {run: num_iterations(run) for run in runs}
        with (
            ThreadPoolExecutor(self.jobs) as pool,
            tqdm(total=sum(iterations.values()), unit="it", smoothing=0) as bar,
        ):
            futures = [pool.submit(self._make, run) for run in runs]
            pending = set(futures)
            while pending and not any(x.done() and x.exception() for x in futures):
                _, pending = wait(futures, timeout=1, return_when=FIRST_EXCEPTION)
                bar.update(sum(min(self._progress(x), iterations[x]) for x in runs) - bar.n)
            pool.shutdown(cancel_futures=True)
        for future in futures:
            if not future.cancelled() and future.exception():
                raise future.exception()

    def _make(self, run: Run) -> None:
        folder = self._folder(run)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [
            *(sys.executable, "-W", "ignore", str(ROOT / "benchmarks/sampling_run.py")),
            *("--data", str(self.data), "--backbone-weights", str(self.backbone_weights)),
            *("--output", str(folder), run.dataset, run.recipe, str(run.seed)),
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),  # train_net.py is there
            "OMP_NUM_THREADS": str(max(len(os.sched_getaffinity(0)) // self.jobs, 1)),
        }
        if torch.cuda.is_available():  # the next of several
            device = next(self._started) % torch.cuda.device_count()
            environment["CUDA_VISIBLE_DEVICES"] = str(device)
        console = folder / "console.txt"
        with open(console, "w") as file:
            process = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
            )
        if process.returncode != 0:
            last = "\n".join(console.read_text().splitlines()[-15:])
            raise LabError(f"{last}\n{run} failed; all of its output: {console}")

        line = json.dumps(json.loads((folder / "result.json").read_text()))
        with self._lock, open(self._results_file(run.dataset), "a") as file:
            file.write(line + "\n")
        for checkpoint in folder.glob("*.pth"):
            checkpoint.unlink()

    def _progress(self, run: Run) -> int:
        """
        Returns:
            int: about how many iterations are behind it.
        """
        return max((int(x["iteration"]) + 1 for x in read_metrics(self._folder(run))), default=0)

    def _folder(self, run: Run) -> Path:
        return self.output / run.dataset / f"{run.recipe}, seed {run.seed}"

    def _results_file(self, dataset: str) -> Path:
        return self.results / f"sampling_{dataset}.jsonl"


def convert_classifier(classifier: Path, weights: Path) -> None:
    """
    Make a checkpoint of the backbone with the weights of the classifier, scaled for the config's
    PIXEL_STD.
    """
    if not classifier.is_file():
        raise LabError(f"--classifier {classifier} is not a file.")
    command = [sys.executable, "-W", "ignore", str(ROOT / "tools/convert_weights.py")]
    # In a folder of its own: another process may do the same, and its runs read the weights.
    with TemporaryDirectory(dir=weights.parent) as folder:
        converted = Path(folder) / "unscaled.pth"
        command += ["--config-file", str(SQUEEZENET), "--other-input"]
        command += [str(classifier), str(converted)]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode != 0:
            raise LabError(process.stderr.strip())
        checkpoint = torch.load(converted)
    scale_biases(checkpoint["model"], load_config(str(SQUEEZENET)).MODEL.PIXEL_STD[0])
    with atomic_file(weights) as file:
        torch.save(checkpoint, file)


def scale_biases(weights: dict[str, Tensor], pixel_std: float) -> None:
    """
    Of convolutions and ReLUs whose images are divided by `pixel_std`, so that their features are
    those of before, divided by it. Those of SqueezeNet have a deviation of 38 without: heads that
    are initialized for 1 then begin with a loss of 4.3 instead of ln 7, and boxes stay coarse.
    """
    for name, value in weights.items():
        if name.endswith(".bias"):
            value /= pixel_std


def check_data(data: Path, runs: list[Run]) -> None:
    for name in dict.fromkeys(x.dataset for x in runs):
        folder = DATASETS[name].folder
        if folder is not None and not (data / folder / "ImageSets/Main/train.txt").is_file():
            raise LabError(
                f"Dataset {name} needs {data / folder} in the layout of PASCAL VOC, with the image "
                "sets train and val: --data names the folder that it is in. "
                f"{DATASETS[name].source}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of the datasets")
    parser.add_argument("--classifier", type=Path, required=True, help="weights of torchvision's")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs at a time")
    parser.add_argument(
        "--datasets", nargs="+", choices=DATASETS, default=list(DATASETS), help="by default all"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "output/compare_sampling")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument(
        "experiments", nargs="*", help=f"some of: {', '.join(EXPERIMENTS)}. All if none is named"
    )
    args = parser.parse_args()

    for name in args.experiments:
        if name not in EXPERIMENTS:
            raise LabError(f"There is no experiment {name}. There are: {', '.join(EXPERIMENTS)}.")
    experiments = [EXPERIMENTS[x] for x in args.experiments or EXPERIMENTS]
    # Experiments share runs. In the order of the seeds, so that what is there can be compared
    # whenever it is stopped.
    runs = sorted(dict.fromkeys(x for e in experiments for x in e.runs()), key=lambda x: x.seed)
    runs = [x for x in runs if x.dataset in args.datasets]

    output = args.output.resolve()
    lab = Lab(args.data.resolve(), output / "backbone.pth", output, args.results, args.jobs)
    missing = lab.missing(runs)
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of which are there.")
    check_data(args.data, missing)
    output.mkdir(parents=True, exist_ok=True)
    convert_classifier(args.classifier, lab.backbone_weights)
    if any(DATASETS[x.dataset].folder is None for x in missing):
        generate_clutter(os.path.abspath(os.getenv("DETECTRON2_DATASETS", "datasets")))
    lab.make(missing)


if __name__ == "__main__":
    try:
        main()
    except (LabError, ResultError) as e:
        sys.exit(f"compare_sampling.py: {e}")
