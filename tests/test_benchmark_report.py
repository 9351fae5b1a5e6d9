"""
The report: statistics by hand and by scipy, tables, and what is refused.
"""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ttest_rel

from benchmarks import report
from benchmarks.differences import paired_difference
from benchmarks.provenance import ROOT
from benchmarks.sampling import tables
from benchmarks.sampling.experiments import DATASETS, Run, config_digest, options_of
from benchmarks.sampling.results import read_runs
from benchmarks.step_time.tables import pool_table, read_steps, step, step_table
from ohem_d2.utils import InputError

PROVENANCE = {
    "commit": "56e1234",  # not a number
    "machine": "CPU, 2 cores",
    "torch": "2.9.0",
    "detectron2": "0.6",
    "date": "2026-01-01",
}


def run_line(recipe, seed, ap, seconds=0.1, dataset="cards", **fields):
    """
    A line of a run, which diverged at iteration 117 if `ap` is None. It logged 20 steps: the first
    two trained on 6 and 8 foreground RoIs per image, the last two on 10 and 12, the others on none.
    """
    num_fg = [6, 8, *[0] * 16, 10, 12]
    return {
        **Run(dataset, recipe, seed)._asdict(),
        "options": options_of(Run(dataset, recipe, seed)),
        "config": config_digest(DATASETS[dataset].config),
        "iterations": 700,
        "AP": ap,
        "AP50": None if ap is None else 2 * ap,
        "diverged_at": 117 if ap is None else None,
        "seconds_per_iteration": seconds,
        "foreground_share": 0.1,
        "mean_roi_loss": [[200, 0.6], [400, None]],
        "curves": {
            "iteration": list(range(20)),
            "num_fg": num_fg,
            "num_bg": [32 - x for x in num_fg],
        },
        **PROVENANCE,
        **fields,
    }


def step_line(variant, **fields):
    is_stock = variant == "stock"
    return {
        **{"kind": "step", "model": "VGG16", "variant": variant, "reference": is_stock},
        **{"precision": "float32", "images": 2, "size": "600 x 800", "R": 2008, "B": 64},
        "pool_size": 0,
        **{"kept": 64.0, "foreground": 20.0, "ms": 1000.0 if is_stock else 1250.0},
        **{"ratio": 1.0 if is_stock else 1.25, "ratio_low": 1.2, "ratio_high": 1.3},
        "parts": {"backbone": 400.0, "rest": 600.0},
        **{"peak_mib": 2000.0, "memory_ratio": 1.0, "gflops": 500.0, "flops_ratio": 1.1},
        **PROVENANCE,
        **fields,
    }


@pytest.fixture
def write(tmp_path):
    def write(*lines, name="sampling_cards.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(x) + "\n" for x in lines))
        return tmp_path

    return write


STOCK, OURS, LONGER = (10.0, 20.0, 30.0), (12.0, 21.0, 36.0), (20.0, 30.0, 40.0)
ALL = [
    *(run_line("stock", seed, ap) for seed, ap in enumerate(STOCK, 1)),
    *(run_line("paper", seed, ap, seconds=0.15) for seed, ap in enumerate(OURS, 1)),
    *(run_line("stock, longer", seed, ap) for seed, ap in enumerate(LONGER, 1)),
]


def cells(table):
    """
    Of the rows of all Markdown tables in a text, without the lines below headers.
    """
    rows = [x for x in table.splitlines() if x.startswith("|") and not x.startswith("|-")]
    return [[x.strip() for x in row.strip("|").split("|")] for row in rows]


def difference(values, reference):
    return paired_difference(pd.Series(values), pd.Series(reference))


def test_difference_by_hand():
    ours = difference(OURS, STOCK)
    # Differences 2, 1, 6: their mean is 3, their variance (1 + 4 + 9) / 2 = 7. Student's t with two
    # degrees of freedom has its 97.5 % quantile at 4.302653, and 4.302653 * sqrt(7 / 3) = 6.5724.
    assert ours.values == (2, 1, 6)
    assert ours.mean == pytest.approx(3)
    assert ours.low == pytest.approx(3 - 6.5724, abs=1e-4)
    assert ours.high == pytest.approx(3 + 6.5724, abs=1e-4)
    assert ours.text == "+3.0 (-3.6 to 9.6)" and ours.sign == 0


def test_sign_of_difference():
    # Differences 4 and 4.2: the mean is 4.1, the standard deviation .1 * sqrt(2), the quantile for
    # one degree of freedom 12.7062: 12.7062 * .1 * sqrt(2) / sqrt(2) = 1.27.
    assert difference([4.0, 4.2], [0.0, 0.0]).text == "+4.1 (2.8 to 5.4)"
    assert difference([4.0, 4.2], [0.0, 0.0]).sign == 1
    assert difference([0.0, 0.0], [4.0, 4.2]).sign == -1
    one = difference([5.0, math.nan], [4.0, 3.0])
    assert (one.values, one.text, one.sign) == ((1,), "-", 0)


@given(
    st.lists(
        st.tuples(st.floats(0, 100, width=32), st.floats(0, 100, width=32)), min_size=2, max_size=9
    )
)
def test_difference_is_scipys(pairs):
    values, reference = (np.array(x) for x in zip(*pairs, strict=True))
    if np.ptp(values - reference) < 1e-3:  # there is no interval for what does not vary
        return
    ours = difference(values, reference)
    expected = ttest_rel(values, reference).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx(tuple(expected), abs=1e-6)


def test_table_of_an_experiment(write):
    text = tables.experiment_tables(read_runs(write(*ALL)), "main")
    header, stock, ours, _, _, *seeds = cells(text)
    assert header[:5] == ["recipe", "n", "AP", "AP50", "difference in AP"]
    # The first and the last tenth are two of 20 logged steps each.
    kept = "7.0 : 25.0 → 11.0 : 21.0"
    assert stock == ["Random sampling", "3", "20.0 ± 10.0", "40.0 ± 20.0", "", kept, "1.00"]
    # 12, 21, 36: the mean is 23, the variance (121 + 4 + 169) / 2 = 147.
    name, interval = "OHEM, no warm-up", "+3.0 (-3.6 to 9.6)"
    assert ours == [name, "3", "23.0 ± 12.1", "46.0 ± 24.2", interval, kept, "1.50"]
    assert seeds[:2] == [
        ["Random sampling", "10.0", "20.0", "30.0"],
        [name, "12.0", "21.0", "36.0"],
    ]
    assert "diverged" not in text and "Blood cells" not in text
    assert text.endswith(
        "'main'`; CPU, 2 cores; commit 56e1234; PyTorch 2.9.0; detectron2 0.6; 2026-01-01</sub>"
    )


def test_seeds_that_are_missing_or_diverged(write):
    lines = [*ALL[:4], run_line("paper", 2, None)]
    runs = read_runs(write(*lines))
    text = tables.experiment_tables(runs, "main")
    # Differences 2 and -20: a run that diverged counts as an AP of 0.
    assert cells(text)[2][:3] == ["OHEM, no warm-up", "2", "6.0 ± 8.5"]
    assert "1 runs diverged; each counts as an AP of 0." in text
    assert tables.compare_with_random(runs) == []  # two seeds are too few for the short answer

    lines += [run_line("paper", 3, 36.0), run_line("stock", 4, 90.0)]
    [comparison] = tables.compare_with_random(read_runs(write(*lines)))
    assert comparison.difference.values == (2, -20, 6)
    # Of the seeds that both have.
    assert (comparison.random.mean(), comparison.mined.mean()) == (20, 16)
    assert cells(tables.summary_table([comparison]))[1][6] == "-"
    assert tables.verdict([comparison], "longer_difference") == ""


def test_summary(write):
    comparisons = tables.compare_with_random(read_runs(write(*ALL)))
    row = ["20.0 ± 10.0", "23.0 ± 12.1", "+3.0 (-3.6 to 9.6)", "3", "30.0 ± 10.0", "1.50"]
    assert cells(tables.summary_table(comparisons))[1][2:] == row
    expected = "not significantly different on playing cards (700 iterations: +3.0)"
    assert tables.verdict(comparisons, "difference") == expected
    # -8, -9, -4: the mean is -7, and 4.302653 * sqrt(7 / 3) = 6.5724.
    expected = "significantly lower on playing cards (700 iterations: -7.0)"
    assert tables.verdict(comparisons, "longer_difference") == expected


def test_time_is_compared_on_one_machine(write):
    lines = [
        run_line("stock", 1, 10.0),
        run_line("stock", 2, 10.0, seconds=0.01, machine="1 x GPU"),
        run_line("paper", 1, 10.0, seconds=0.15),
        run_line("paper", 2, 10.0, seconds=9.0, date="2026-02-01"),
        run_line("paper", 3, 10.0, seconds=9.0, machine="2 x GPU"),
    ]
    runs = read_runs(write(*lines))
    assert tables.step_ratio(runs, "cards", "paper", ["stock"]) == pytest.approx(1.5)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"dataset": "cows"}, "line 1: dataset 'cows' is unknown. There are: cards"),
        ({"recipe": "half"}, "line 1: recipe 'half' is unknown. There are: stock"),
        ({"options": {}}, "line 1 was recorded with the options {}.* Delete the line"),
        ({"config": "old"}, "line 1 was recorded with another configs/benchmarks/.*Delete"),
        ({"commit": "abc+"}, "line 1 was recorded from a changed work tree: delete the line"),
        ({"diverged_at": 3}, "line 1 has no AP, and did not diverge, or has both"),
    ],
)
def test_lines_that_are_refused(write, fields, message):
    with pytest.raises(InputError, match=f"sampling_cards.jsonl, {message}"):
        read_runs(write({**run_line("stock", 1, 10.0), **fields}))


def test_files_that_are_refused(write):
    line = run_line("stock", 1, 10.0)
    with pytest.raises(InputError, match=r"line 2 repeats the result of \['cards', 'stock', 1\]"):
        read_runs(write(line, line))
    del line["torch"]
    with pytest.raises(InputError, match="line 1 lacks torch"):
        read_runs(write(line))
    with pytest.raises(InputError, match="line 1 is not a JSON object"):
        read_runs(write([]))
    folder = write(step_line("stock", kind="target"), name="step_time.jsonl")
    with pytest.raises(InputError, match="kind 'target' is unknown. There are: step, sweep"):
        read_steps(folder)


def test_steps(write):
    steps = read_steps(write(step_line("stock"), step_line("OHEM"), name="step_time.jsonl"))
    assert cells(step_table(steps))[1:] == [
        ["VGG16", "stock", "64", "1,000", "1", "1.00", "1.10"],
        ["VGG16", "OHEM", "64", "1,250", "1.25 (1.20 to 1.30)", "1.00", "1.10"],
    ]
    assert step(steps, model="VGG16", variant="OHEM")["ratio"] == 1.25
    with pytest.raises(InputError, match="2 training steps are recorded with .* not one"):
        step(steps, model="VGG16")


def test_steps_by_pool(write):
    lines = [
        step_line("stock"),
        step_line("OHEM, pool 512", pool_size=512, ratio=1.1, flops_ratio=1.05),
        step_line("OHEM"),
        step_line("background mining, pool 256", pool_size=256, ratio=1.0, flops_ratio=1.02),
        step_line("OHEM, half precision", ratio=1.2),
        step_line("stock", model="R50-FPN"),
        step_line("OHEM", model="R50-FPN", ratio=0.9),
    ]
    steps = read_steps(write(*lines, name="step_time.jsonl"))
    assert cells(pool_table(steps)) == [
        ["model", "variant", "256", "512", "all"],
        ["VGG16", "OHEM", "-", "1.10 (1.05)", "1.25 (1.10)"],
        ["VGG16", "OHEM, half precision", "-", "-", "1.20 (1.10)"],
        ["VGG16", "background mining", "1.00 (1.02)", "-", "-"],
        ["R50-FPN", "OHEM", "-", "-", "0.90 (1.10)"],
    ]


def test_ap_by_pool(write):
    lines = [
        run_line("stock", 1, 10.0),
        run_line("paper", 1, 20.0),
        run_line("paper, pool 64", 2, 15.0),
        run_line("background, pool 256", 3, 16.0),
        run_line("paper", 5, 21.0),  # not a seed of this experiment
        run_line("paper, L1", 1, 22.0),
    ]
    points = tables.ap_by_pool(read_runs(write(*lines)), "cards")
    assert points[["mining", "pool_size", "seed", "AP"]].to_numpy().tolist() == [
        ["stock", 0, 1, 10.0],
        ["paper", 0, 1, 20.0],
        ["paper", 64, 2, 15.0],
        ["background", 256, 3, 16.0],
    ]


def test_half_precision(write):
    def measured(bfloat16, float16):
        values = {"bfloat16": bfloat16, "float16": float16}
        return {k: {"shared": x, "loss_ratio": 1 - x / 100} for k, x in values.items()}

    lines = [
        run_line("stock", 1, 10.0),  # recorded before this was measured
        run_line("stock", 2, 10.0, half_precision=measured(0.9, 1.0)),
        run_line("paper", 2, 10.0, half_precision=measured(0.8, 0.99)),
        run_line("paper", 3, None, half_precision=None),
    ]
    table = tables.half_precision_table(read_runs(write(*lines)))
    assert cells(table)[1:] == [
        ["Playing cards", "bfloat16", "2", "85.00%", "80.00%", "0.99150"],
        ["Playing cards", "float16", "2", "99.50%", "99.00%", "0.99005"],
    ]


def test_the_docs_are_those_of_the_recorded_results(tmp_path):
    report.main(["--output", str(tmp_path)])
    for name in ("results.md", "results_full.md"):
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert page == (ROOT / "docs" / name).read_text(encoding="utf-8"), "run `make results`"
    pictures = {x.name: Image.open(x).size for x in tmp_path.glob("*.png")}
    assert pictures == {x.name: Image.open(x).size for x in (ROOT / "docs").glob("results_*.png")}
    assert all(f"({name})" in page for name in pictures if name != "results_main.png")


def test_without_results(tmp_path):
    with pytest.raises(InputError, match=r"has no results of benchmarks.sampling.compare"):
        report.main(["--results", str(tmp_path)])
