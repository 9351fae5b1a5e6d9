"""
The files of benchmarks/results, read and checked: what compare_sampling.py need not run again, and
what docs/results.md is made of.
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional

from sampling_experiments import DATASETS, RECIPES, Run, config_digest, options_of
from step_tables import StepLine

__all__ = ["PROVENANCE", "ResultError", "Result", "look_up", "read_runs", "read_steps"]

PROVENANCE = ("commit", "machine", "torch", "detectron2", "date")

# Lines of step_time.jsonl by kind: what differs between two of them, and what else they have.
STEP_KEYS = {
    "step": ("model", "variant", "precision", "images", "size", "R", "B", "machine"),
    "sweep": ("model", "precision", "R", "mining_batch_size", "machine"),
    "overlap": ("model", "precision", "machine"),
    "monitor": ("model", "machine"),
    "target": ("name", "machine"),
}
STEP_VALUES = {
    "step": (
        *("reference", "kept", "foreground", "ms", "ratio", "ratio_low", "ratio_high", "parts"),
        *("peak_mib", "memory_ratio", "gflops", "flops_ratio"),
    ),
    "sweep": ("ms", "peak_mib"),
    "overlap": ("kept", "shared"),
    "monitor": ("ms", "step_ms"),
    "target": ("limit", "at_least", "measured", "met"),
}


class ResultError(ValueError):
    """
    A result, or a name that asks for one, cannot be used. The message names it, in a file with the
    line, and says what is wrong.
    """


class Result(NamedTuple):
    """
    What a run gave.
    """

    ap: Optional[float]  # None: it diverged
    ap50: Optional[float]
    diverged_at: Optional[int]  # the iteration
    seconds: float  # of the training
    mean_roi_loss: dict[int, float]  # by iteration, over all RoIs of the training images
    kept: dict[int, tuple[float, float]]  # by iteration, foreground and background RoIs an image
    hard_by_iou: Optional[dict[str, list[float]]]  # see kept_rois.py
    provenance: dict[str, str]

    @property
    def ap_or_0(self) -> float:
        """
        A detector that diverged finds nothing. In a difference it counts as that: to leave it out
        would be to compare on the seeds that a recipe happens to survive.
        """
        return 0.0 if self.ap is None else self.ap


def read_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """
    Returns:
        where it is, and what it says, for each line.
    """
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        where = f"{file.name}, line {number}"
        try:
            line = json.loads(text)
        except ValueError as e:
            raise ResultError(f"{where} is not JSON: {e}") from e
        if not isinstance(line, dict):
            raise ResultError(f"{where} is not an object, but {text[:40]}")
        missing = [x for x in PROVENANCE if x not in line]
        if missing:
            raise ResultError(f"{where} has no {', '.join(missing)}.")
        yield where, line


def read_runs(folder: Path) -> dict[Run, Result]:
    """
    Args:
        folder (Path): of sampling_*.jsonl.
    """
    results: dict[Run, Result] = {}
    found: dict[Run, str] = {}
    for file in sorted(folder.glob("sampling_*.jsonl")):
        for where, line in read_lines(file):
            try:
                run = Run(line["dataset"], line["recipe"], line["seed"])
                for kind, name, names in (
                    ("dataset", run.dataset, DATASETS),
                    ("recipe", run.recipe, RECIPES),
                ):
                    look_up(names, name, f"{where}: {kind}")
                if run in found:
                    raise ResultError(f"{where} is of the same run as {found[run]}: {tuple(run)}.")
                results[run], found[run] = _parse(line), where
            except ResultError:
                raise
            except KeyError as e:
                raise ResultError(f"{where} has no {e}.") from e
            except (AttributeError, TypeError, ValueError) as e:
                raise ResultError(f"{where} cannot be read: {e}") from e
    return results


def _parse(line: dict[str, Any]) -> Result:
    diverged_at = line["diverged_at"]
    ap, ap50 = line["AP"], line["AP50"]
    if diverged_at is None:
        is_valid = all(isinstance(x, (int, float)) and math.isfinite(x) for x in (ap, ap50))
    else:
        is_valid = isinstance(diverged_at, int) and ap is None and ap50 is None
    if not is_valid:
        raise ValueError(f"AP is {ap}, AP50 is {ap50} and diverged_at is {diverged_at}")
    if not isinstance(line["seed"], int):
        raise ValueError(f"seed is {line['seed']!r}")
    options = options_of(line["dataset"], line["recipe"])
    if line["options"] != json.loads(json.dumps(options)):  # which makes lists of tuples
        raise ValueError(
            f"it was made with {line['options']}, and they are {options} now: delete the line"
        )
    config = DATASETS[line["dataset"]].config
    if line["config"] != config_digest(config):
        raise ValueError(f"it was made with another configs/{config} than today's: delete the line")
    curves = line["curves"]
    kept = zip(curves["iteration"], curves["num_fg"], curves["num_bg"], strict=True)
    return Result(
        ap,
        ap50,
        diverged_at,
        # There is none of a run that diverged before it was first logged.
        math.nan if line["seconds"] is None else float(line["seconds"]),
        {int(i): float(x) for i, x in line["mean_roi_loss"] if x is not None and math.isfinite(x)},
        {int(i): (float(fg), float(bg)) for i, fg, bg in kept},
        line.get("hard_by_iou"),
        {x: str(line[x]) for x in PROVENANCE},
    )


def read_steps(folder: Path) -> dict[str, list[StepLine]]:
    """
    Args:
        folder (Path): of step_time*.jsonl, a file for each machine.

    Returns:
        dict[str, list[StepLine]]: the lines by kind.
    """
    lines: dict[str, list[StepLine]] = {x: [] for x in STEP_KEYS}
    found: dict[tuple, str] = {}
    for file in sorted(folder.glob("step_time*.jsonl")):
        for where, line in read_lines(file):
            kind = line.get("kind")
            look_up(STEP_KEYS, kind, f"{where}: kind")
            missing = [x for x in (*STEP_KEYS[kind], *STEP_VALUES[kind]) if x not in line]
            if missing:
                raise ResultError(f"{where} has no {', '.join(missing)}.")
            key = (kind, *(str(line[x]) for x in STEP_KEYS[kind]))
            if key in found:
                raise ResultError(f"{where} is of the same as {found[key]}: {', '.join(key)}.")
            found[key] = where
            lines[kind].append(line)
    return lines


def look_up(names: Iterable[str], name: str, what: str) -> None:
    if name not in names:
        raise ResultError(f"{what} {name!r} is unknown. There are: {', '.join(map(str, names))}.")
