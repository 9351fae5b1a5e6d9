"""
Run everything that needs an NVIDIA GPU, and leave a folder with what it says: the tests of CUDA,
how often a step waits for the GPU, and the times of merging boxes and of training steps.

    python -m benchmarks.gpu.run

Each part runs in a process of its own, and one that fails does not stop the others.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.measure import make_table
from benchmarks.provenance import ROOT, provenance, require_clean_commit
from ohem_d2.utils import InputError, atomic_file

PARTS = ("environment", "tests", "syncs", "merging", "steps")  # the longest last


def command(part: str, args: argparse.Namespace) -> list[str]:
    """
    Returns:
        list[str]: the arguments of Python.
    """
    folder = args.output
    tiny = ["--tiny"] if args.trial else []
    repeats = ["--repeats", str(args.repeats)] if args.repeats else []
    if part == "environment":
        return ["-m", "torch.utils.collect_env"]
    if part == "tests":
        # Not all: a machine without a package index lacks what other tests import.
        files = sorted((ROOT / "tests").glob("test_*.py"))
        files = [x for x in files if re.search(r"\b(devices|needs_cuda)\b", x.read_text())]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        options = ["-p", "no:cacheprovider", "-k", device, f"--junitxml={folder / 'tests.xml'}"]
        return ["-m", "pytest", *options, *map(str, files)]
    output = ["--output", str(folder / f"{part}.md")]
    if part == "syncs":
        return ["-m", "benchmarks.gpu.syncs", *output, *tiny]
    if part == "merging":
        images = ["--images", "1"] if args.trial else []
        return ["-m", "benchmarks.gpu.merging", *output, *repeats, *tiny, *images]
    models = ["--models", *args.models] if args.models else []
    trial = ["--trial"] if args.trial else []
    options = [*trial, *tiny, *models, *repeats]
    return ["-m", "benchmarks.step_time.run", "--output", str(folder), *options]


def run_part(part: str, args: argparse.Namespace) -> str:
    """
    Run a part, and write what it prints to a log.

    Returns:
        str: how it ended.
    """
    # -W ignore: detectron2 0.5 uses what PyTorch has deprecated.
    line = [sys.executable, "-W", "ignore", *command(part, args)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with open(args.output / f"{part}.log", "w") as log:
        process = subprocess.run(
            line,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return "passed" if process.returncode == 0 else f"failed ({process.returncode})"


def main(arguments: Sequence[str] | None = None) -> bool:
    """
    Returns:
        bool: whether all parts passed.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--models", nargs="+", help="of the steps (default: all)")
    parser.add_argument("--repeats", type=int, help="of each measurement (default: each part's)")
    parser.add_argument("--output", type=Path, default=ROOT / "output/gpu", help="the folder")
    parser.add_argument(
        "--trial",
        action="store_true",
        help="small images, to see that everything runs: on the CPU if there is no GPU, and from "
        "a changed work tree as well",
    )
    args = parser.parse_args(arguments)
    args.output = args.output.resolve()
    if not args.trial:
        if not torch.cuda.is_available():
            raise InputError(
                f"PyTorch {torch.__version__} finds no CUDA device. See whether nvidia-smi finds "
                "one, and whether PyTorch was built for CUDA (torch.version.cuda is "
                f"{torch.version.cuda}). To see whether everything runs on the CPU: --trial."
            )
        require_clean_commit()
    args.output.mkdir(parents=True, exist_ok=True)

    origin = ", ".join(provenance().values())
    rows = []
    for part in (bar := tqdm(args.parts)):
        bar.set_description(part)
        start = time.perf_counter()
        result = run_part(part, args)
        minutes = f"{(time.perf_counter() - start) / 60:.1f}"
        rows.append({"part": part, "result": result, "minutes": minutes, "log": f"{part}.log"})
        # After each part, in case that time runs out.
        with atomic_file(args.output / "summary.md") as path:
            path.write_text(f"{origin}\n\n{make_table(rows, 4)}\n")
    print((args.output / "summary.md").read_text() + f"\nin {args.output}")
    return all(x["result"] == "passed" for x in rows)


if __name__ == "__main__":
    try:
        sys.exit(0 if main() else 1)
    except InputError as e:
        sys.exit(f"gpu: {e}")
