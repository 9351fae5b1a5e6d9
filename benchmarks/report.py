#!/usr/bin/env python3
"""
Make docs/results.md and its pictures of benchmarks/results/*.jsonl, which compare_sampling.py and
step_time.py have written.

    python benchmarks/report.py

What the page says is in benchmarks/results_template.md. Every number is put in here, those in the
sentences too: the template calls functions such as

    {{ experiment("main") }}
    {{ difference("main", "cards", "paper").text }}

which are those of SamplingReport and StepReport, and picture().
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Optional

from jinja2 import Environment, StrictUndefined, TemplateError
from report_plots import draw_bars, draw_differences, draw_lines
from report_sampling import LINES, SamplingReport
from report_steps import StepReport
from report_text import NOT_YET
from result_files import ResultError, read_runs, read_steps
from sampling_experiments import CONFIGS

from ohem_d2.utils import atomic_file

ROOT = CONFIGS.parent


class Page:
    """
    docs/results.md, and the pictures beside it.
    """

    def __init__(self, results: Path, output: Path):
        """
        Args:
            results (Path): the folder of the JSON lines.
            output (Path): the page. The names of its pictures begin with its own.
        """
        self._sampling = SamplingReport(read_runs(results))
        self._steps = StepReport(read_steps(results))
        self._output = output
        self._drawings: dict[Path, Callable[[Path], None]] = {}

    def write(self, template: Path) -> None:
        """
        Raises:
            ResultError: before anything is written.
        """
        environment = Environment(
            undefined=StrictUndefined,
            autoescape=False,  # it is Markdown
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        functions = {
            "picture": self.picture,
            **self._sampling.template_functions(),
            **self._steps.template_functions(),
        }
        try:
            text = environment.from_string(template.read_text(encoding="utf-8")).render(functions)
        except TemplateError as e:
            line = f", line {e.lineno}" if hasattr(e, "lineno") else ""
            raise ResultError(f"{template.name}{line}: {e.message}") from e
        self._output.parent.mkdir(parents=True, exist_ok=True)
        for path, draw in self._drawings.items():
            draw(path)
        with atomic_file(self._output) as file:  # at last: the pictures that it names are there
            file.write_text(text, encoding="utf-8")

    def picture(
        self,
        name: str,
        experiment: str = "main",
        recipes: Optional[Sequence[str]] = None,
        **where: Any,
    ) -> str:
        """
        Have a picture drawn.

        Args:
            name (str): an experiment, for its differences; "mean_roi_loss" or "kept", for these
                over the training of the recipes of `experiment`, or of some of its `recipes`; or
                "step_time", for the parts of the steps that have the values of `where`.

        Returns:
            str: what shows it in Markdown.
        """
        draw: Callable[..., None]
        if name == "step_time":
            panels = self._steps.bar_panels(**where)
            alt = "The parts of a training step, for each model and variant"
            draw = partial(draw_bars, xlabel="time of a step, the reference's = 1")
        elif name in LINES:
            panels = self._sampling.line_panels(name, experiment, recipes)
            alt = f"{LINES[name].title}, over the training, for each recipe"
            draw = partial(draw_lines, ylabel=LINES[name].title)
        else:
            panels = self._sampling.difference_panels(name)
            xlabel = f"AP more than {self._sampling.reference_title(name)}"
            alt = f"{xlabel}: each seed, their mean, and its 95 % interval"
            draw = partial(draw_differences, xlabel=xlabel)
        if not panels:
            return NOT_YET
        words = [name, *([experiment] if experiment != "main" else []), *map(str, where.values())]
        slug = re.sub(r"\W+", "_", " ".join(words)).strip("_")
        path = self._output.with_name(f"{self._output.stem}_{slug}.png")
        self._drawings[path] = partial(draw, panels=panels)
        return f"![{alt}]({path.name})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results.md")
    parser.add_argument("--template", type=Path, default=ROOT / "benchmarks/results_template.md")
    args = parser.parse_args()
    try:
        for path in (args.results, args.template):
            if not path.exists():
                raise ResultError(f"{path} does not exist.")
        Page(args.results, args.output).write(args.template)
    except ResultError as e:
        sys.exit(f"report.py: {e}")


if __name__ == "__main__":
    main()
