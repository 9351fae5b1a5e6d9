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
from benchmarks.step_time.tables import pool_table, read_steps, step, step_table
from ohem_d2.utils import InputError

PROVENANCE = {
    "commit": "56e1234",  # not a number
    "machine": "CPU, 2 cores",
    "torch": "2.9.0",
    "detectron2": "0.6",
    "date": "2026-01-01",
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
    def write(*lines):
        (tmp_path / "step_time.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        return tmp_path

    return write


STOCK, OURS = (10.0, 20.0, 30.0), (12.0, 21.0, 36.0)


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


def test_files_that_are_refused(write):
    line = step_line("stock")
    with pytest.raises(
        InputError, match=r"line 2 repeats the result of \['step', 'VGG16', 'stock'"
    ):
        read_steps(write(line, line))
    with pytest.raises(InputError, match="line 1 was recorded from a changed work tree: delete"):
        read_steps(write({**line, "commit": "abc+"}))
    with pytest.raises(InputError, match="kind 'target' is unknown. There are: step, sweep"):
        read_steps(write({**line, "kind": "target"}))
    del line["torch"]
    with pytest.raises(InputError, match="line 1 lacks torch"):
        read_steps(write(line))
    with pytest.raises(InputError, match="line 1 is not a JSON object"):
        read_steps(write([]))


def test_steps(write):
    steps = read_steps(write(step_line("stock"), step_line("OHEM")))
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
    steps = read_steps(write(*lines))
    assert cells(pool_table(steps)) == [
        ["model", "variant", "256", "512", "all"],
        ["VGG16", "OHEM", "-", "1.10 (1.05)", "1.25 (1.10)"],
        ["VGG16", "OHEM, half precision", "-", "-", "1.20 (1.10)"],
        ["VGG16", "background mining", "1.00 (1.02)", "-", "-"],
        ["R50-FPN", "OHEM", "-", "-", "0.90 (1.10)"],
    ]


def test_the_docs_are_those_of_the_recorded_results(tmp_path):
    report.main(["--output", str(tmp_path)])
    for name in ("results.md", "results_full.md"):
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert page == (ROOT / "docs" / name).read_text(encoding="utf-8"), "run `make results`"
    pictures = {x.name: Image.open(x).size for x in tmp_path.glob("*.png")}
    assert pictures == {x.name: Image.open(x).size for x in (ROOT / "docs").glob("results_*.png")}
    assert all(f"({name})" in page for name in pictures if name != "results_main.png")


def test_without_results(tmp_path, write):
    with pytest.raises(InputError, match=r"has no results of benchmarks.step_time.run"):
        report.main(["--results", str(tmp_path)])
    write(step_line("stock"))
    with pytest.raises(InputError, match=r"has no results of benchmarks.laboratory.compare fast"):
        report.main(["--results", str(tmp_path)])
