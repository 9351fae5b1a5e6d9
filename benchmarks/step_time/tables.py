"""
Tables of what benchmarks/step_time.py measured, for its output and for docs/results.md.
"""

from collections.abc import Iterable
from typing import Any

from benchmarks.measure import make_table

__all__ = [
    "StepLine",
    "group_steps",
    "overlap_table",
    "parts_tables",
    "monitor_table",
    "step_tables",
    "sweep_table",
    "targets_table",
]

StepLine = dict[str, Any]  # as benchmarks/step_time.py writes it


def group_steps(
    lines: Iterable[StepLine], title: str = "{model}, {inputs}, {machine}"
) -> dict[str, list[StepLine]]:
    """
    Args:
        lines: of the kind "step", as those of all that return tables by title.
        title (str): with the keys by whose values they are grouped, and {inputs}: those of the
            images.
    """
    groups: dict[str, list[StepLine]] = {}
    for line in lines:
        plural = "" if line["images"] == 1 else "s"
        inputs = f"{line['images']} image{plural} of {line['size']}, R = {line['R']}"
        groups.setdefault(title.format(**line, inputs=inputs), []).append(line)
    return groups


def step_tables(lines: Iterable[StepLine]) -> dict[str, str]:
    """
    Returns:
        dict[str, str]: what a step takes, by the title of its table. Ratios are to the first row:
        the median, and the range.
    """
    headers = ["precision", "variant", "B", "kept fg : bg", "ms", "ratio (range)"]
    headers += ["peak MiB (ratio)", "GFLOP (ratio)"]
    return {
        title: make_table(headers, [_step_row(x) for x in group], num_left=2)
        for title, group in group_steps(lines).items()
    }


def _step_row(line: StepLine) -> list[Any]:
    low, high = line["ratio_low"], line["ratio_high"]
    return [
        *(line["precision"], line["variant"], line["B"]),
        f"{line['foreground']:.0f} : {line['kept'] - line['foreground']:.0f}",
        f"{line['ms']:,.0f}",
        "1" if line["reference"] else f"{line['ratio']:.2f} ({low:.2f} to {high:.2f})",
        f"{line['peak_mib']:,.0f} ({line['memory_ratio']:.2f})",
        f"{line['gflops']:,.0f} ({line['flops_ratio']:.2f})",
    ]


def parts_tables(lines: Iterable[StepLine]) -> dict[str, str]:
    """
    Returns:
        dict[str, str]: the milliseconds of a step's parts, and their shares, by the title.
    """
    tables = {}
    for title, group in group_steps(lines).items():
        rows = []
        for x in group:
            total = sum(x["parts"].values())
            cells = [f"{ms:,.1f} ({ms / total:.1%})" for ms in x["parts"].values()]
            rows.append([x["precision"], x["variant"], *cells])
        tables[title] = make_table(["precision", "variant", *group[0]["parts"]], rows, num_left=2)
    return tables


def sweep_table(lines: Iterable[StepLine]) -> str:
    """
    Returns:
        str: mining one image, by the number of RoIs.
    """
    headers = ["model", "RoIs at a time", "R", "ms", "ms / 1,000 RoIs", "peak MiB"]
    rows = [
        [
            *(x["model"], x["mining_batch_size"] or "all", f"{x['R']:,}", f"{x['ms']:,.1f}"),
            *(f"{1000 * x['ms'] / x['R']:,.1f}", f"{x['peak_mib']:,.1f}"),
        ]
        for x in sorted(lines, key=lambda x: (x["model"], x["mining_batch_size"], x["R"]))
    ]
    return make_table(headers, rows)


def overlap_table(lines: Iterable[StepLine]) -> str:
    """
    Returns:
        str: how many RoIs a lower precision keeps of those that float32 does.
    """
    headers = ["model", "precision", "kept in float32", "in both", "share"]
    rows = [
        [x["model"], x["precision"], x["kept"], x["shared"], f"{x['shared'] / x['kept']:.1%}"]
        for x in lines
    ]
    return make_table(headers, rows, num_left=2)


def monitor_table(lines: Iterable[StepLine]) -> str:
    """
    Returns:
        str: what it takes to show what mining picks, beside a step.
    """
    headers = ["model", "ms", "share of a step", "at VIS_PERIOD 100"]
    shares = [(x, x["ms"] / x["step_ms"]) for x in lines]
    rows = [[x["model"], f"{x['ms']:,.0f}", f"{y:.1%}", f"{y / 100:.2%}"] for x, y in shares]
    return make_table(headers, rows)


def targets_table(lines: Iterable[StepLine]) -> str:
    """
    Returns:
        str: what was to be reached, and whether it was.
    """
    rows = [
        [
            x["name"],
            f"at {'least' if x['at_least'] else 'most'} {x['limit']:g}",
            *(f"{x['measured']:.3f}", "yes" if x["met"] else "**no**"),
        ]
        for x in lines
    ]
    return make_table(["target", "limit", "measured", "met"], rows)
