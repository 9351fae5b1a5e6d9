"""
What benchmarks/step_time.py measured: tables, numbers for sentences, and what the picture shows.
"""

from collections.abc import Callable, Mapping
from typing import Any

from report_plots import Bar
from report_text import NOT_YET, made_by
from result_files import ResultError, look_up
from step_tables import (
    StepLine,
    group_steps,
    monitor_table,
    overlap_table,
    parts_tables,
    step_tables,
    sweep_table,
    targets_table,
)

__all__ = ["StepReport"]

COMMAND = "python benchmarks/step_time.py"


class StepReport:
    """
    Each method takes the lines that have the values of `where`, such as `model="VGG16"`.
    """

    def __init__(self, lines: Mapping[str, list[StepLine]]):
        self._all = lines

    def template_functions(self) -> dict[str, Callable]:
        return {
            "step_time": self.step_time,
            "parts": self.parts,
            "step": self.step,
            "sweep": self.sweep,
            "overlap": self.overlap,
            "monitor": self.monitor,
            "targets": self.targets,
        }

    def step_time(self, **where: Any) -> str:
        """
        The tables of training steps, one for each model and machine.
        """
        return self._tables(step_tables, where)

    def parts(self, **where: Any) -> str:
        """
        The tables of what the parts of the steps take.
        """
        return self._tables(parts_tables, where)

    def step(self, **where: Any) -> StepLine:
        """
        One line of the training steps, for its numbers:
        `"%.2f"|format(step(model="VGG16", variant="OHEM", precision="float32").ratio)`.
        """
        lines = self._lines("step", where)
        if len(lines) != 1:
            raise ResultError(f"step: {len(lines)} lines of step_time.jsonl have {where}, not one.")
        return lines[0]

    def sweep(self, **where: Any) -> str:
        """
        The table of mining one image: time and memory by the number of RoIs.
        """
        return self._table(sweep_table, "sweep", where)

    def overlap(self, **where: Any) -> str:
        """
        The table of how many RoIs a lower precision keeps of those that float32 does.
        """
        return self._table(overlap_table, "overlap", where)

    def monitor(self, **where: Any) -> str:
        """
        The table of what it takes to show what mining picks.
        """
        return self._table(monitor_table, "monitor", where)

    def targets(self, **where: Any) -> str:
        """
        The table of what was to be reached, and whether it was.
        """
        return self._table(targets_table, "target", where)

    def bar_panels(self, **where: Any) -> dict[str, list[Bar]]:
        """
        Returns:
            for :func:`draw_bars`.
        """
        return {
            title: [_bar(x) for x in lines]
            for title, lines in group_steps(
                self._lines("step", where), "{model}, {precision}, {inputs}, {machine}"
            ).items()
        }

    def _tables(
        self,
        make_tables: Callable[[list[StepLine]], dict[str, str]],
        where: Mapping[str, Any],
    ) -> str:
        lines = self._lines("step", where)
        if not lines:
            return NOT_YET
        blocks = [f"**{title}**\n\n{table}" for title, table in make_tables(lines).items()]
        return "\n\n".join([*blocks, made_by(COMMAND, lines)])

    def _table(
        self, make_table: Callable[[list[StepLine]], str], kind: str, where: Mapping[str, Any]
    ) -> str:
        lines = self._lines(kind, where)
        return f"{make_table(lines)}\n\n{made_by(COMMAND, lines)}" if lines else NOT_YET

    def _lines(self, kind: str, where: Mapping[str, Any]) -> list[StepLine]:
        lines = self._all[kind]
        for key in where:
            for line in lines:
                look_up(line, key, f"{kind} of step_time.jsonl: key")
        return [x for x in lines if all(x[k] == v for k, v in where.items())]


def _bar(line: StepLine) -> Bar:
    # Timed part by part, a step may take longer: the parts share the time that it has alone.
    scale = line["ratio"] / sum(line["parts"].values())
    return Bar(
        f"{line['variant']}, B = {line['B']}",
        f"{line['ratio']:.2f} ({line['ms']:,.0f} ms)",
        {part: scale * ms for part, ms in line["parts"].items()},
    )
