"""
What benchmarks/step_time.py measured: tables, numbers for sentences, and what the picture shows.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from measure import make_table
from report_inputs import ReportError, StepLine, look_up
from report_plots import Bar
from report_text import NOT_YET, made_by

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
            "step": self.step,
            "sweep": self.sweep,
            "overlap": self.overlap,
            "targets": self.targets,
        }

    def step_time(self, **where: Any) -> str:
        """
        The tables of training steps, one for each model and machine.
        """
        lines = self._lines("step", where)
        headers = ["precision", "variant", "B", "kept", "ms", "ratio (range)", "peak MiB (ratio)"]
        headers += ["GFLOP (ratio)"]
        blocks = []
        for title, group in _group(lines, "{model}, {inputs}, {machine}").items():
            rows = [
                [
                    *(x["precision"], x["variant"], x["B"], f"{x['kept']:.0f}"),
                    *(f"{x['ms']:,.0f}", _ratio_cell(x)),
                    f"{x['peak_mib']:,.0f} ({x['memory_ratio']:.2f})",
                    f"{x['gflops']:,.0f} ({x['flops_ratio']:.2f})",
                ]
                for x in group
            ]
            blocks.append(f"**{title}**\n\n{make_table(headers, rows, num_left=2)}")
        return "\n\n".join([*blocks, made_by(COMMAND, lines)]) if lines else NOT_YET

    def step(self, **where: Any) -> StepLine:
        """
        One line of the training steps, for its numbers:
        `"%.2f"|format(step(model="VGG16", variant="OHEM", precision="float32").ratio)`.
        """
        lines = self._lines("step", where)
        if len(lines) != 1:
            raise ReportError(f"step: {len(lines)} lines of step_time.jsonl have {where}, not one.")
        return lines[0]

    def sweep(self, **where: Any) -> str:
        """
        The table of mining one image: time and memory by the number of RoIs.
        """
        lines = self._lines("sweep", where)
        rows = [
            [
                *(x["model"], x["mining_batch_size"] or "all", f"{x['R']:,}", f"{x['ms']:,.1f}"),
                *(f"{1000 * x['ms'] / x['R']:,.1f}", f"{x['peak_mib']:,.1f}"),
            ]
            for x in sorted(lines, key=lambda x: (x["model"], x["mining_batch_size"], x["R"]))
        ]
        headers = ["model", "RoIs at a time", "R", "ms", "ms / 1,000 RoIs", "peak MiB"]
        return _block(headers, rows, 1, made_by(COMMAND, lines))

    def overlap(self, **where: Any) -> str:
        """
        The table of how many RoIs a lower precision keeps of those that float32 does.
        """
        lines = self._lines("overlap", where)
        rows = [
            [x["model"], x["precision"], x["kept"], x["shared"], f"{x['shared'] / x['kept']:.1%}"]
            for x in lines
        ]
        headers = ["model", "precision", "kept in float32", "in both", "share"]
        return _block(headers, rows, 2, made_by(COMMAND, lines))

    def targets(self, **where: Any) -> str:
        """
        The table of what was to be reached, and whether it was.
        """
        lines = self._lines("target", where)
        rows = [
            [
                x["name"],
                f"at {'least' if x['at_least'] else 'most'} {x['limit']:g}",
                *(f"{x['measured']:.3f}", "yes" if x["met"] else "**no**"),
            ]
            for x in lines
        ]
        headers = ["target", "limit", "measured", "met"]
        return _block(headers, rows, 1, made_by(COMMAND, lines))

    def bar_panels(self, **where: Any) -> dict[str, list[Bar]]:
        """
        Returns:
            for :func:`draw_bars`.
        """
        return {
            title: [_bar(x) for x in lines]
            for title, lines in _group(
                self._lines("step", where), "{model}, {precision}, {inputs}, {machine}"
            ).items()
        }

    def _lines(self, kind: str, where: Mapping[str, Any]) -> list[StepLine]:
        lines = self._all[kind]
        for key in where:
            for line in lines:
                look_up(line, key, f"{kind} of step_time.jsonl: key")
        return [x for x in lines if all(x[k] == v for k, v in where.items())]


def _group(lines: Iterable[dict[str, Any]], title: str) -> dict[str, list[StepLine]]:
    """
    Args:
        title (str): with the keys by whose values they are grouped, and {inputs}: those of the
            images.
    """
    groups: dict[str, list[StepLine]] = {}
    for line in lines:
        plural = "" if line["images"] == 1 else "s"
        inputs = f"{line['images']} image{plural} of {line['size']}, R = {line['R']}"
        groups.setdefault(title.format(**line, inputs=inputs), []).append(line)
    return groups


def _bar(line: StepLine) -> Bar:
    # Timed part by part, a step may take longer: the parts share the time that it has alone.
    scale = line["ratio"] / sum(line["parts"].values())
    return Bar(
        f"{line['variant']}, B = {line['B']}",
        f"{line['ratio']:.2f} ({line['ms']:,.0f} ms)",
        {part: scale * ms for part, ms in line["parts"].items()},
    )


def _ratio_cell(line: StepLine) -> str:
    if line["reference"]:
        return "1"
    return f"{line['ratio']:.2f} ({line['ratio_low']:.2f} to {line['ratio_high']:.2f})"


def _block(headers: list[str], rows: list[list[Any]], num_left: int, footer: str) -> str:
    return f"{make_table(headers, rows, num_left)}\n\n{footer}" if rows else NOT_YET
