"""
What the recorded runs of the laboratories say, by hand.
"""

import json

import pandas as pd
import pytest
from laboratory_runs import line_of

from benchmarks import provenance
from benchmarks.laboratory import tables
from benchmarks.laboratory.errors import RECALLS
from benchmarks.laboratory.experiments import (
    ALL_ROIS,
    ALL_ROIS_RATE,
    SETTINGS,
    Experiment,
    Variant,
    experiments,
)
from benchmarks.laboratory.laboratories import without_some_boxes
from benchmarks.laboratory.results import read_runs, results_file

TRIED = Experiment(
    "fpn",
    ("cards", "pests"),
    (
        Variant("random", 64, 0.01),
        Variant("random", 128, 0.01),
        Variant("OHEM", 64, 0.01),
        Variant("OHEM", 64, 0.02),
    ),
    (1, 2),
)


def recorded(aps):
    """
    The table of recorded runs.

    Args:
        aps: by dataset and number of the variant, the AP of the seeds.
    """
    lines = [
        line_of(TRIED.run(dataset, TRIED.variants[i], seed), ap)
        for (dataset, i), values in aps.items()
        for seed, ap in zip(TRIED.seeds, values, strict=False)
    ]
    return pd.DataFrame(lines)


def test_errors_table_by_hand():
    tried = TRIED._replace(variants=(TRIED.variants[0], TRIED.variants[2]), seeds=(1, 2, 3))
    # Background errors at a recall of .7 and .8. One run does not reach .8.
    counts = {("random", 1): (9, 20), ("random", 2): (11, 22), ("OHEM", 1): (4, None)}
    counts["OHEM", 2] = (8, 19)
    counts["random", 3] = (100, 200)  # does not count, because OHEM diverges
    lines = []
    for made in tried.runs():
        if (made.recipe, made.seed) == ("OHEM", 3):
            lines.append(line_of(made, None, errors=None))
        elif made.dataset == "cards":
            of_run = counts[made.recipe, made.seed]
            at = {
                r: x and {"background": x, "class": 2 * x}
                for r, x in zip(("0.7", "0.8"), of_run, strict=True)
            }
            lines.append(line_of(made, 40, errors=dict.fromkeys(RECALLS) | at))
        else:  # from before errors were recorded
            lines.append(line_of(made, 40))
    # Differences of -5 and -3: the mean -4, and t = 12.706 times the standard error 1.
    expected = "| Playing cards | 2 | 0.7 | 30.0 ± 4.2 | 10.0 ± 1.4 | -4.0 (-16.7 to 8.7) |"
    table = tables.errors_table(pd.DataFrame(lines), tried).splitlines()
    assert [" ".join(x.split()) for x in table[2:]] == [expected]
    assert tables.background_errors(pd.DataFrame(lines), tried, "cards", "OHEM") == "6.0 of 18.0"
    assert tables.background_errors(pd.DataFrame(lines), tried, "pests", "OHEM") == "-"
    verdict = tables.errors_verdict(pd.DataFrame(lines), tried, "OHEM")
    assert verdict == "not significantly different on any set"


def test_errors_verdict_by_hand():
    tried = TRIED._replace(variants=(TRIED.variants[0], TRIED.variants[2]))
    # Within a seed, 10 fewer on the cards, and 5 more on the insects.
    counts = {("cards", "random"): 20, ("cards", "OHEM"): 10}
    counts |= {("pests", "random"): 20, ("pests", "OHEM"): 25}
    lines = [
        line_of(
            made,
            40,
            errors=dict.fromkeys(RECALLS)
            | {"0.5": {"background": counts[made.dataset, made.recipe] + made.seed, "class": 3}},
        )
        for made in tried.runs()
    ]
    assert tables.errors_verdict(pd.DataFrame(lines), tried, "OHEM") == (
        "significantly larger on insects on rice (+5.0), and smaller on playing cards (-10.0)"
    )


def test_background_errors_of_a_variant_by_its_rois():
    tried = TRIED._replace(datasets=("cards",), variants=TRIED.variants[:2], seeds=(1, 2))
    counts = {64: {"background": 7, "class": 3}, 128: {"background": 2, "class": 1}}
    lines = [
        line_of(made, 40, errors=dict.fromkeys(RECALLS) | {"0.5": counts[made.rois]})
        for made in tried.runs()
    ]
    found = [
        tables.background_errors(pd.DataFrame(lines), tried, "cards", "random", rois=rois)
        for rois in (64, 128)
    ]
    assert found == ["7.0 of 10.0", "2.0 of 3.0"]


def test_mean_roi_losses_by_hand():
    losses = {("random", 1): 0.4, ("random", 2): 0.5, ("OHEM", 1): 0.3}
    lines = [
        line_of(TRIED.run("cards", Variant(recipe, 64, 0.01), seed), 40, mean_roi_loss=[[400, x]])
        for (recipe, seed), x in losses.items()
    ]
    (points,) = tables.mean_roi_losses(pd.DataFrame(lines), TRIED).values()
    assert points.to_numpy().tolist() == [
        ["Random sampling", 400, 0.4],
        ["Random sampling", 400, 0.5],
        ["OHEM", 400, 0.3],
    ]
    compared = TRIED._replace(variants=TRIED.variants[:1])
    assert tables.roi_loss(pd.DataFrame(lines), compared, "cards", "random") == "0.450"


def test_a_difference_of_almost_nothing():
    runs = recorded({("cards", 1): (40, 41), ("cards", 2): (39.93, 40.99)})
    # Differences of -.07 and -.01: the mean -.04 is none, and has no sign. t = 12.706 times .03.
    difference = tables.difference(runs, TRIED, "cards", TRIED.variants[2], TRIED.variants[1])
    assert difference.text == "+0.0 (-0.4 to 0.3)"


def test_difference_of_a_variant_by_its_iterations():
    first = TRIED.variants[0]
    tried = TRIED._replace(variants=(first, first._replace(factor=0.5), first._replace(factor=2.0)))
    aps = {1.0: (40, 42), 0.5: (30, 30), 2.0: (43, 47)}
    lines = [
        line_of(tried.run("cards", first._replace(factor=factor), seed), ap)
        for factor, values in aps.items()
        for seed, ap in zip(tried.seeds, values, strict=True)
    ]
    # Differences of 3 and 5: the mean 4, and t = 12.706 times the standard error 1.
    gain = tables.recipe_difference(pd.DataFrame(lines), tried, "cards", "random", factor=2.0)
    assert gain == "+4.0 (-8.7 to 16.7)"


def test_collapsed_runs_by_hand():
    variants = [Variant(x, 64, rate) for x in ("random", "OHEM") for rate in (0.01, 0.02)]
    tried = TRIED._replace(variants=tuple(variants))
    aps = {
        # Of OHEM's runs, 20 is half of 40, and 20.9 is less than half of 42.
        ("cards", 0): (40, 42),
        ("cards", 2): (20, 20.9),
        # Nothing is compared with a run of random sampling that diverged.
        ("pests", 0): (None, 30),
        ("pests", 2): (0, None),
        ("cards", 1): (None,),
        ("cards", 3): (50,),
    }
    lines = [
        line_of(tried.run(dataset, variants[i], seed), ap)
        for (dataset, i), values in aps.items()
        for seed, ap in zip(tried.seeds, values, strict=False)
    ]
    runs = pd.DataFrame(lines).fillna({"AP": 0.0})
    rows = [
        [x.strip() for x in y.strip("|").split("|")]
        for y in tables.stability_table(runs, tried).splitlines()
    ]
    assert rows[0] == ["recipe", "collapsed, rate 0.01", "collapsed, rate 0.02"]
    collapsed = [["Random sampling", "0 of 3", "-"], ["OHEM", "2 of 3, 1 diverged", "-"]]
    assert rows[2:] == collapsed
    at_one_rate = tried._replace(variants=(variants[0], variants[2]))
    assert tables.diverged(runs, at_one_rate, "pests", "OHEM") == "1 of 2"


def test_best_settings_by_hand():
    runs = recorded(
        {
            ("cards", 0): (40, 42),  # mean 41
            ("cards", 1): (50, 50),
            ("pests", 0): (30, 30),  # mean over both 35.5
            ("pests", 1): (19, 19),  # 34.5
            ("cards", 2): (10, 10),
            ("pests", 2): (10, 10),
            ("cards", 3): (90, 90),  # not tried on the other
        }
    )
    assert tables.best_settings(runs, TRIED) == {"random": (64, 0.01), "OHEM": (64, 0.01)}
    rows = [
        [x.strip() for x in row.split("|")[1:-1]]
        for row in tables.settings_table(runs, TRIED).splitlines()[2:]
    ]
    assert rows == [
        ["Random sampling", "64", "35.5", "-"],
        ["Random sampling", "128", "34.5", "-"],
        ["OHEM", "64", "10.0", "-"],
    ]


def test_table_of_an_experiment():
    runs = recorded({("cards", 0): (40, 42), ("cards", 2): (45, 45), ("cards", 3): (60,)})
    text = tables.experiment_tables(runs, "tried", TRIED)
    assert "**Playing cards**" in text and "Insects" not in text
    rows = [[x.strip() for x in row.split("|")[1:-1]] for row in text.splitlines()[4:7]]
    assert [x[:2] + x[4:6] for x in rows] == [
        ["Random sampling", "64", "2", "41.0 ± 1.4"],
        ["OHEM", "64", "2", "45.0 ± 0.0"],
        ["OHEM", "64", "1", "60.0"],
    ]
    # 5 and 3: their mean is 4, their deviation sqrt(2), and Student's t 12.7062.
    assert [x[7] for x in rows] == ["", "+4.0 (-8.7 to 16.7)", "-"]
    assert {x[8] for x in rows} == {"7.0 : 25.0 → 11.0 : 21.0"}
    assert "compare fpn --data DATA --classifier CLASSIFIER --experiments 'tried'`" in text


def test_a_run_that_diverged_has_an_ap_of_0(tmp_path):
    tried = TRIED._replace(datasets=("cards",), variants=TRIED.variants[::2])
    aps = zip(tried.runs(), (10.0, 12.0, 20.0, None), strict=True)
    lines = [json.dumps(line_of(made, ap)) for made, ap in aps]
    results_file(tmp_path, "fpn", "val").write_text("\n".join(lines))
    text = tables.experiment_tables(read_runs(tmp_path, "fpn"), "tried", tried)
    rows = [[x.strip() for x in row.split("|")[1:-1]] for row in text.splitlines()[4:6]]
    # 12 and 0: a deviation of 6 sqrt(2). Differences of 2 and -20: a mean of -9, and a deviation of
    # 11 sqrt(2), divided by sqrt(2), times Student's 12.7062.
    assert [x[5] for x in rows] == ["15.0 ± 7.1", "6.0 ± 8.5"]
    assert rows[1][7] == "-9.0 (-148.8 to 130.8)"
    assert "1 runs diverged; each counts as an AP of 0." in text
    assert text.endswith("'tried'`; abc; commit abc; PyTorch abc; detectron2 abc; abc</sub>")


def test_summary_by_hand():
    tried = TRIED._replace(variants=(TRIED.variants[0], TRIED.variants[2]))
    runs = recorded(
        {
            **{("cards", 0): (40, 42), ("cards", 2): (45, 45)},
            **{("pests", 0): (20, 20), ("pests", 2): (21,)},
        }
    )
    table = tables.summary_table(runs, tried).splitlines()
    header, _, *rows = ([x.strip() for x in line.split("|")[1:-1]] for line in table)
    assert header == ["photographs", "n", "AP, random sampling", "OHEM"]
    assert rows == [
        # 5 and 3: a deviation of sqrt(2), divided by sqrt(2), times Student's 12.7062.
        ["Playing cards", "2", "41.0 ± 1.4", "+4.0 (-8.7 to 16.7)"],
        ["Insects on rice", "2", "20.0 ± 0.0", "-"],
        # 30 and 31. OHEM has both datasets with one seed.
        ["Mean over all", "2", "30.5 ± 0.7", "-"],
    ]
    assert tables.mean_difference(runs, tried, "OHEM") == "-"
    assert tables.mean_ap(runs, tried, "random") == "30.5 ± 0.7"


def test_changes_by_hand():
    whole = TRIED._replace(variants=(TRIED.variants[0], TRIED.variants[2]))
    missing = whole._replace(datasets=tuple(map(without_some_boxes, whole.datasets)))
    # By recipe: the AP of both seeds with all boxes, and without some.
    aps = {"random": ((40, 42), (38, 39)), "OHEM": ((45, 46), (40, 42))}
    lines = [
        line_of(tried.run(tried.datasets[0], variant, seed), ap)
        for variant in whole.variants
        for tried, values in zip((whole, missing), aps[variant.recipe], strict=True)
        for seed, ap in zip(tried.seeds, values, strict=True)
    ]
    table = tables.changes_table(pd.DataFrame(lines), missing, whole).splitlines()
    rows = [[x.strip() for x in line.split("|")[1:-1]] for line in table[2:]]
    # t = 12.7062 times a standard error of .5.
    random, ohem = "-2.5 (-8.9 to 3.9)", "-4.5 (-10.9 to 1.9)"
    # -5 + 2 and -4 + 3: t times a standard error of 1.
    more = "-2.0 (-14.7 to 10.7)"
    assert rows == [
        ["Playing cards", "Random sampling", "2", "41.0 ± 1.4", "38.5 ± 0.7", random, ""],
        ["Playing cards", "OHEM", "2", "45.5 ± 0.7", "41.0 ± 1.4", ohem, more],
    ]


def test_verdict_by_hand():
    tried = TRIED._replace(variants=TRIED.variants[:1] + TRIED.variants[2:3], seeds=(1, 2, 3))

    def recorded(aps):
        lines = [
            line_of(tried.run(dataset, variant, seed), ap)
            for dataset, pair in aps.items()
            for variant, values in zip(tried.variants, pair, strict=True)
            for seed, ap in zip(tried.seeds, values, strict=False)
        ]
        return pd.DataFrame(lines)

    def verdict(**aps):
        return tables.verdict(recorded(aps), tried, "OHEM")

    def tally(**aps):
        return tables.tally(recorded(aps), tried, "OHEM")

    # Differences of 5, 5 and 6 are far from 0; of 4 and -2 they are not.
    higher, lower = ((40, 41, 42), (45, 46, 48)), ((45, 46, 48), (40, 41, 42))
    alike = ((10, 12), (14, 10))
    assert verdict(cards=higher, pests=alike) == (
        "significantly higher on playing cards (+5.3), and lower on none"
    )
    assert verdict(cards=lower, pests=lower) == (
        "significantly lower on playing cards (-5.3) and insects on rice (-5.3), and higher on none"
    )
    assert verdict(cards=lower, pests=higher) == (
        "significantly higher on insects on rice (+5.3), and lower on playing cards (-5.3)"
    )
    assert verdict(cards=alike, pests=alike) == "not significantly different on any set"
    assert verdict(cards=((45,), (40,))).startswith("not known yet")
    assert tally(cards=higher, pests=alike) == "higher on 1 of 2 sets, lower on 0"
    assert tally(cards=lower, pests=lower) == "higher on 0 of 2 sets, lower on 2"
    assert tally(cards=lower, pests=((45,), (40,))) == "higher on 0 of 1 sets, lower on 1"


def test_sentences_by_hand():
    tried = TRIED._replace(variants=TRIED.variants[1:3])
    lines = [line_of(tried.run("cards", x, 1), 40) for x in tried.variants]
    # (6 + 8 + 16 * 0 + 10 + 12) / 20
    assert tables.foreground(pd.DataFrame(lines), tried, "cards", "OHEM") == "1.8"
    assert tables.foreground(pd.DataFrame(lines), tried, "pests", "OHEM") == "-"


def test_recipe_difference_by_hand():
    runs = recorded({("cards", 0): (40, 42), ("cards", 2): (43, 47), ("pests", 0): (40, 42)})
    # Differences of 3 and 5: the mean 4, and t = 12.706 times the standard error 1.
    tried = TRIED._replace(variants=(TRIED.variants[0], TRIED.variants[2]))
    assert tables.recipe_difference(runs, tried, "cards", "OHEM") == "+4.0 (-8.7 to 16.7)"
    assert tables.recipe_difference(runs, tried, "pests", "OHEM") == "-"


@pytest.mark.parametrize("laboratory", SETTINGS)
def test_settings_are_the_best_of_what_was_tried(laboratory):
    runs = read_runs(provenance.RESULTS, laboratory)
    if runs.empty:
        pytest.skip("no run is recorded yet")
    for name, field in (("rois", 0), ("rate", 1)):
        best = tables.best_settings(runs, experiments(laboratory)[name])
        for recipe, settings in best.items():
            assert SETTINGS[laboratory][recipe][field] == settings[field]


def test_rate_of_all_rois_is_the_best_of_what_was_tried():
    runs = read_runs(provenance.RESULTS, "fast")
    best = tables.best_settings(runs, experiments("fast")["rate of all RoIs"])
    if not best:
        pytest.skip("no run is recorded yet")
    assert best["all RoIs"] == (ALL_ROIS, ALL_ROIS_RATE)
