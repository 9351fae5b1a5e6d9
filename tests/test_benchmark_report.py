import json
import sys
from pathlib import Path

import numpy as np
import pytest
import report
import sampling_experiments
from hypothesis import given
from hypothesis import strategies as st
from paired import paired_difference, spread
from PIL import Image
from report_sampling import SamplingReport
from report_steps import StepReport
from result_files import ResultError, read_runs, read_steps
from result_lines import PROVENANCE, run_line
from sampling_experiments import Dataset, Experiment, Recipe
from scipy.stats import ttest_rel


@pytest.fixture(autouse=True)
def plan(monkeypatch):
    """
    Two datasets, four recipes and two experiments, in place of those that there are.
    """
    config = "demo/faster_rcnn_R_18.yaml"  # its SOLVER.BASE_LR is .02
    sizes = {"MODEL.ANCHOR_GENERATOR.SIZES": ((8,),)}
    names = {
        "DATASETS": {
            "cats": Dataset(title="Cats", config=config, options={}),
            "dogs": Dataset(title="Dogs", config=config, options={}),
        },
        "RECIPES": {
            "stock": Recipe(title="Stock", options={}),
            "ours": Recipe(title="Ours", options=sizes),
            "stock, LR 0.1": Recipe(title="Stock, .1", options={"SOLVER.BASE_LR": 0.1}),
            "ours, LR 0.1": Recipe(title="Ours, .1", options={**sizes, "SOLVER.BASE_LR": 0.1}),
        },
        "EXPERIMENTS": {
            "main": Experiment(
                title="Main",
                question="Is it better?",
                datasets=("cats", "dogs"),
                recipes=("stock", "ours"),
                seeds=(1, 2, 3),
            ),
            "learning rates": Experiment(
                title="Learning rates",
                question="At which?",
                datasets=("cats",),
                recipes=("stock", "stock, LR 0.1", "ours", "ours, LR 0.1"),
                seeds=(1,),
                varied="SOLVER.BASE_LR",
            ),
        },
    }
    for name, made in names.items():
        there = getattr(sampling_experiments, name)  # others have imported it: it stays that dict
        for key in list(there):
            monkeypatch.delitem(there, key)
        for key, value in made.items():
            monkeypatch.setitem(there, key, value)


# Of dogs, seed 3 is not there yet, and neither is "ours" with seed 2.
CATS = {"stock": (10.0, 20.0, 30.0), "ours": (12.0, 21.0, 36.0)}
DOGS = {"stock": (40.0, 44.0), "ours": (50.0,)}


def lines_of_runs():
    return [
        run_line(dataset, recipe, seed, ap, 130.0 if recipe == "ours" else 100.0)
        for dataset, recipes in (("cats", CATS), ("dogs", DOGS))
        for recipe, aps in recipes.items()
        for seed, ap in enumerate(aps, 1)
    ]


def step_line(variant, **fields):
    is_stock = variant == "stock"
    return {
        **{"kind": "step", "model": "VGG16", "variant": variant, "reference": is_stock},
        **{"precision": "float32", "images": 2, "size": "600 x 800", "R": 2008, "B": 64},
        **{"kept": 64.0, "foreground": 20.0, "ms": 1000.0 if is_stock else 1250.0},
        **{"ratio": 1.0 if is_stock else 1.25, "ratio_low": 1.2, "ratio_high": 1.3},
        "parts": {"backbone": 400.0, "read-only pass": 0.0 if is_stock else 250.0, "rest": 600.0},
        **{"peak_mib": 2000.0, "memory_ratio": 1.0, "gflops": 500.0, "flops_ratio": 1.1},
        **PROVENANCE,
        **fields,
    }


def lines_of_steps():
    sweep = {"kind": "sweep", "model": "VGG16", "precision": "float32", "peak_mib": 50.0}
    return [
        step_line("stock"),
        step_line("OHEM"),
        {**sweep, "R": 500, "mining_batch_size": 0, "ms": 100.0, **PROVENANCE},
        {
            **{"kind": "overlap", "model": "VGG16", "precision": "half"},
            **{"kept": 128, "shared": 120, **PROVENANCE},
        },
        {"kind": "monitor", "model": "VGG16", "ms": 400.0, "step_ms": 500.0, **PROVENANCE},
        {
            **{"kind": "target", "name": "time", "limit": 1.2, "at_least": False},
            **{"measured": 1.25, "met": False, **PROVENANCE},
        },
    ]


def write_lines(folder, name, lines):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(x) + "\n" for x in lines))


def write_results(folder, lines):
    for dataset in sampling_experiments.DATASETS:
        of_dataset = [x for x in lines if x["dataset"] == dataset]
        write_lines(folder, f"sampling_{dataset}.jsonl", of_dataset)


@pytest.fixture
def sampling(tmp_path):
    """
    The report of some lines.
    """

    def sampling(lines):
        write_results(tmp_path / "results", lines)
        return SamplingReport(read_runs(tmp_path / "results"))

    return sampling


@pytest.fixture
def make_page(tmp_path, monkeypatch):
    """
    Run the script in this process with a template, and return the page.
    """

    def make_page(template, output=tmp_path / "docs/results.md"):
        (tmp_path / "results").mkdir(exist_ok=True)
        (tmp_path / "template.md").write_text(template)
        options = {"results": "results", "output": output, "template": "template.md"}
        arguments = [x for k, v in options.items() for x in (f"--{k}", str(tmp_path / v))]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["report.py", *arguments])
            report.main()
        return output.read_text(encoding="utf-8")

    return make_page


def cells(table):
    """
    Of the rows of all Markdown tables in a text, without the lines below headers.
    """
    rows = [x for x in table.splitlines() if x.startswith("|") and not x.startswith("|-")]
    return [[x.strip() for x in row.strip("|").split("|")] for row in rows]


# Statistics.


def test_difference_by_hand():
    difference = paired_difference([12.0, 21.0, 36.0], [10.0, 20.0, 30.0])
    # Differences 2, 1, 6: their mean is 3, their variance (1 + 4 + 9) / 2 = 7. Student's t with two
    # degrees of freedom has its 97.5 % quantile at 4.302653, and 4.302653 * sqrt(7 / 3) = 6.5724.
    assert difference.values == (2, 1, 6) and difference.n == 3
    assert difference.mean == pytest.approx(3)
    assert difference.low == pytest.approx(3 - 6.5724, abs=1e-4)
    assert difference.high == pytest.approx(3 + 6.5724, abs=1e-4)
    assert difference.text == "+3.0 AP (95 % interval -3.6 to 9.6, three seeds)"
    assert difference.cell == "+3.0 (-3.6 to 9.6), n = 3"
    assert difference.wins == "three of three"
    assert difference.sign == 0


def test_sign_of_difference():
    # Differences 4 and 4.2: the mean is 4.1, the standard deviation .1 * sqrt(2), the quantile for
    # one degree of freedom 12.7062: 12.7062 * .1 * sqrt(2) / sqrt(2) = 1.27.
    difference = paired_difference([4.0, 4.2], [0.0, 0.0])
    assert difference.cell == "+4.1 (2.8 to 5.4), n = 2" and difference.sign == 1
    difference = paired_difference([0.0, 0.0], [4.0, 4.2])
    assert difference.cell == "-4.1 (-5.4 to -2.8), n = 2" and difference.sign == -1
    assert difference.wins == "no of two"
    # There is no -0.0, and what does not vary has an interval of no width.
    difference = paired_difference([1.0, 1.0], [1.04, 1.04])
    assert difference.cell == "+0.0 (0.0 to 0.0), n = 2"


def test_difference_of_few_seeds():
    one = paired_difference([5.0], [4.0])
    assert (one.mean, one.low, one.high, one.sign) == (1, None, None, 0)
    assert one.cell == "-" and one.text == "+1.0 AP (one seed)"
    none = paired_difference([], [])
    assert none.cell == "-" and none.text == "(no result yet)" and none.sign == 0


@given(
    st.lists(
        st.tuples(st.floats(0, 100, width=32), st.floats(0, 100, width=32)), min_size=2, max_size=9
    )
)
def test_difference_is_scipys(pairs):
    values, reference = zip(*pairs, strict=True)
    difference = paired_difference(values, reference)
    assert difference.low <= difference.mean <= difference.high
    if np.ptp(difference.values) > 1e-3:  # scipy has no interval for what does not vary
        expected = ttest_rel(values, reference).confidence_interval(0.95)
        assert (difference.low, difference.high) == pytest.approx(tuple(expected), abs=1e-6)


def test_spread():
    # The deviations are 2 and -2: sqrt((4 + 4) / 1) = 2.83.
    assert spread([10.0, 14.0]).text == "12.0 ± 2.8"
    assert spread([10.0]).text == "10.0"
    assert spread([]).text == "(no result yet)"


# Tables.


def test_table_of_an_experiment(sampling):
    text = sampling(lines_of_runs()).experiment("main", "cats")
    header, stock, ours, _, *seeds = cells(text)
    assert header[:4] == ["recipe", "AP", "AP50", "difference in AP"]
    # The first and the last tenth are two of 20 logged steps each.
    kept = "7.0 : 25.0 → 11.0 : 21.0"
    assert stock == ["Stock", "20.0 ± 10.0", "40.0 ± 20.0", "", kept, "100 (1.00)"]
    # 12, 21, 36: the mean is 23, the variance (121 + 4 + 169) / 2 = 147.
    difference = "+3.0 (-3.6 to 9.6), n = 3"
    assert ours == ["Ours", "23.0 ± 12.1", "46.0 ± 24.2", difference, kept, "130 (1.30)"]
    assert seeds == [["Stock", "10.0", "20.0", "30.0"], ["Ours", "12.0", "21.0", "36.0"]]
    assert text.startswith("Is it better?\n\n**Cats**\n\n") and "All 3 seeds." in text
    assert "diverge" not in text
    assert text.endswith(
        "<sub>`python benchmarks/compare_sampling.py --data DATA --classifier squeezenet1_0.pth "
        "main`; CPU, 2 cores; commit abc1234; PyTorch 2.9.0; detectron2 0.6; 2026-01-01</sub>"
    )


def test_missing_seeds_are_counted(sampling):
    text = sampling(lines_of_runs()).experiment("main", "dogs")
    _, stock, ours, _, *seeds = cells(text)
    assert stock[:2] == ["Stock", "42.0 ± 2.8"] and ours[:4] == ["Ours", "50.0", "100.0", "-"]
    assert seeds == [["Stock", "40.0", "44.0", "not yet"], ["Ours", "50.0", "not yet", "not yet"]]
    assert "**Not complete. Stock: 2 of 3 seeds so far; Ours: 1 of 3 seeds so far.**" in text


def test_without_any_run(sampling):
    made = sampling([])
    text = made.experiment("main")
    assert text.count("*There is no result yet: 6 runs are planned.*") == 2 and "|" not in text
    assert made.ap("main", "cats", "ours").text == "(no result yet)"
    assert np.isnan(made.time_ratio("main", "cats", "ours"))
    assert not made.difference_panels("main") and not made.line_panels("kept", "main")


def test_diverged_runs_count(sampling):
    lines = [
        *(run_line("cats", "stock", seed, ap) for seed, ap in ((1, 10.0), (2, 20.0), (3, 30.0))),
        *(run_line("cats", "ours", seed, ap) for seed, ap in ((1, 16.0), (2, None), (3, 40.0))),
        *(run_line("dogs", "ours", seed, None) for seed in (1, 2)),
    ]
    made = sampling(lines)
    text = made.experiment("main")
    rows = {tuple(x[:2]): x for x in cells(text)}
    ours = rows["Ours", "28.0 ± 17.0 (1 of 3 diverged)"]
    assert ours[2] == "56.0 ± 33.9"
    # It lost all of seed 2: 6, -20 and 10, whose mean is -4 / 3.
    assert ours[3].startswith("-1.3 (") and ours[3].endswith("n = 3")
    assert made.difference("main", "cats", "ours").values == (6, -20, 10)
    assert ours[5] == "100 (1.00)"
    assert rows["Ours", "16.0"] == ["Ours", "16.0", "diverged at 117", "40.0"]
    assert rows["Ours", "2 of 2 diverged, at 117, 117"][2:] == ["-", "-", "-", "-"]
    assert text.count("one that did counts as an AP of 0") == 2  # below both tables
    # Curves are those of the runs that came to their end.
    (line,) = (x for x in made.line_panels("mean_roi_loss", "main")["Cats"] if x.label == "Ours")
    assert line.values == {200: [0.61, 0.63], 400: [0.4, 0.4]}


def test_time_is_compared_on_one_machine(sampling):
    lines = [
        run_line("cats", "stock", 1, 10.0, seconds=100.0),
        run_line("cats", "stock", 2, 10.0, seconds=10.0, machine="1 x GPU"),
        run_line("cats", "ours", 1, 10.0, seconds=150.0),
        run_line("cats", "ours", 2, 10.0, seconds=150.0, commit="def5678"),
    ]
    made = sampling(lines)
    assert made.time_ratio("main", "cats", "ours") == 1.5  # of seed 1 alone
    # All machines and commits are named.
    text = made.experiment("main")
    assert "1 x GPU and CPU, 2 cores; commit abc1234, def5678; " in text


def test_by_value(sampling):
    lines = [
        run_line("cats", "stock", 1, 10.0),
        run_line("cats", "stock, LR 0.1", 1, None),
        run_line("cats", "ours", 1, 12.0),
    ]
    made = sampling(lines)
    assert cells(made.by_value("learning rates")) == [
        ["`SOLVER.BASE_LR`", "0.02", "0.1"],
        ["Stock", "10.0", "diverged at 117"],
        ["Ours", "12.0", "-"],
    ]
    assert "**Not complete. Ours, .1: 0 of 1 seeds so far.**" in made.by_value("learning rates")

    with pytest.raises(ResultError, match="Experiment main varies no key"):
        made.by_value("main")


def test_numbers_for_sentences(sampling):
    made = sampling(lines_of_runs())
    assert made.ap("main", "cats", "ours").text == "23.0 ± 12.1"
    assert made.ap50("main", "cats", "stock").mean == 40
    assert made.difference("main", "cats", "ours").mean == 3
    assert made.difference("main", "cats", "stock", reference="ours").mean == -3
    assert made.time_ratio("main", "cats", "ours") == pytest.approx(1.3)
    assert cells(made.options("main"))[1:] == [
        ["Stock", "-"],
        ["Ours", "`MODEL.ANCHOR_GENERATOR.SIZES ((8,),)`"],
    ]


@pytest.mark.parametrize(
    "names, message",
    [
        (("mian", "cats", "ours"), "experiment 'mian' is unknown. There are: main, learning rat"),
        (("main", "cows", "ours"), "experiment main: dataset 'cows' is unknown. There are: cats"),
        (("main", "cats", "stock, LR 0.1"), "experiment main: recipe .* There are: stock, ours"),
    ],
)
def test_names_that_are_unknown(sampling, names, message):
    with pytest.raises(ResultError, match=message):
        sampling([]).difference(*names)


def test_steps(tmp_path):
    write_lines(tmp_path, "step_time.jsonl", lines_of_steps())
    # Of another machine, in another file.
    gpu = [step_line("stock", machine="1 x GPU"), step_line("OHEM", machine="1 x GPU", ms=12.5)]
    write_lines(tmp_path, "step_time_gpu.jsonl", gpu)
    steps = StepReport(read_steps(tmp_path))

    text = steps.step_time(machine="CPU, 2 cores")
    assert text.startswith("**VGG16, 2 images of 600 x 800, R = 2008, CPU, 2 cores**\n\n")
    assert cells(text)[1:] == [
        ["float32", "stock", "64", "20 : 44", "1,000", "1", "2,000 (1.00)", "500 (1.10)"],
        [
            *("float32", "OHEM", "64", "20 : 44", "1,250", "1.25 (1.20 to 1.30)", "2,000 (1.00)"),
            "500 (1.10)",
        ],
    ]
    assert text.endswith(
        "<sub>`python benchmarks/step_time.py`; CPU, 2 cores; commit abc1234; PyTorch 2.9.0; "
        "detectron2 0.6; 2026-01-01</sub>"
    )
    # 400 + 250 + 600 ms.
    assert cells(steps.parts(machine="1 x GPU", variant="OHEM"))[1:] == [
        ["float32", "OHEM", "400.0 (32.0%)", "250.0 (20.0%)", "600.0 (48.0%)"]
    ]
    assert len(cells(steps.step_time())) == 6  # a table for each machine
    assert steps.step(variant="OHEM", machine="1 x GPU")["ms"] == 12.5
    assert cells(steps.sweep())[1:] == [["VGG16", "all", "500", "100.0", "200.0", "50.0"]]
    assert cells(steps.overlap())[1:] == [["VGG16", "half", "128", "120", "93.8%"]]
    assert cells(steps.monitor())[1:] == [["VGG16", "400", "80.0%", "0.80%"]]
    assert cells(steps.targets())[1:] == [["time", "at most 1.2", "1.250", "**no**"]]
    # The parts share what the step takes: 400 + 250 + 600 = 1250 ms, 1.25 steps of the reference.
    ((_, ohem),) = steps.bar_panels(machine="CPU, 2 cores").values()
    assert ohem.parts == pytest.approx({"backbone": 0.4, "read-only pass": 0.25, "rest": 0.6})
    assert ohem.label == "OHEM, B = 64" and ohem.note == "1.25 (1,250 ms)"

    with pytest.raises(ResultError, match=r"2 lines of step_time.jsonl have .*'OHEM'.*, not one"):
        steps.step(variant="OHEM")
    with pytest.raises(ResultError, match="key 'modle' is unknown. There are: kind, model"):
        steps.step_time(modle="VGG16")


def test_without_steps(tmp_path):
    steps = StepReport(read_steps(tmp_path))
    for name in ("step_time", "parts", "sweep", "overlap", "monitor", "targets"):
        assert getattr(steps, name)() == "*There is no result yet.*"
    assert not steps.bar_panels()


# The page.

TEMPLATE = """
{{ picture("main") }} {{ picture("mean_roi_loss") }} {{ picture("kept", recipes=["ours"]) }}
{{ picture("kept", "learning rates") }} {{ picture("step_time", precision="float32") }}
{{ experiment("main") }}
{{ by_value("learning rates") }}
{{ options("main") }}
{{ step_time() }} {{ sweep() }} {{ overlap() }} {{ monitor() }} {{ targets() }}
{{ difference("main", "cats", "ours").text }}, {{ ap("main", "cats", "ours").text }},
{{ ap50("main", "cats", "ours").text }}, {{ "%.1f"|format(time_ratio("main", "cats", "ours")) }},
{{ "%.2f"|format(step(variant="OHEM").ratio) }}, {{ step(variant="OHEM").parts["rest"] }}
"""


def test_page(tmp_path, make_page):
    write_results(tmp_path / "results", lines_of_runs())
    write_lines(tmp_path / "results", "step_time.jsonl", lines_of_steps())
    page = make_page(TEMPLATE)
    assert page.endswith(
        "+3.0 AP (95 % interval -3.6 to 9.6, three seeds), 23.0 ± 12.1,\n"
        "46.0 ± 24.2, 1.3,\n1.25, 600.0\n"
    )
    files = {x.name: x.read_bytes() for x in (tmp_path / "docs").iterdir()}
    names = ["main", "mean_roi_loss", "kept", "kept_learning_rates", "step_time_float32"]
    pictures = [f"results_{x}.png" for x in names]
    assert sorted(files) == sorted(["results.md", *pictures])
    for name in pictures:
        assert f"]({name})" in page
        image = np.array(Image.open(tmp_path / "docs" / name).convert("RGB"))
        assert image.shape[1] > 600 and tuple(image[0, 0]) == (255, 255, 255)
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
        assert not Image.open(tmp_path / "docs" / name).info  # no date, no version
    # The same bytes a second time, whatever the order of the lines.
    write_results(tmp_path / "results", lines_of_runs()[::-1])
    make_page(TEMPLATE)
    assert {x.name: x.read_bytes() for x in (tmp_path / "docs").iterdir()} == files


def test_page_without_results(tmp_path, make_page):
    page = make_page('{{ picture("main") }}{{ picture("kept") }}{{ picture("step_time") }}')
    assert page == 3 * "*There is no result yet.*"
    assert [x.name for x in (tmp_path / "docs").iterdir()] == ["results.md"]


def test_page_that_ships(tmp_path, monkeypatch):
    monkeypatch.undo()  # what is compared is what there is
    page = report.Page(report.ROOT / "benchmarks/results", tmp_path / "results.md")
    page.write(report.ROOT / "benchmarks/results_template.md")
    made = (tmp_path / "results.md").read_text(encoding="utf-8")
    there = (report.ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert made == there, "make results has not been run"


@pytest.mark.parametrize(
    "template, message",
    [
        ("{{ picture('mian') }}", "experiment 'mian' is unknown"),
        ("{{ pictures('main') }}", "template.md: 'pictures' is undefined"),
        ("\n\n{{ picture('main' }}", "template.md, line 3: "),
        ("{{ step(model='VGG16') }}", "step: 0 lines of step_time.jsonl have"),
    ],
)
def test_templates_that_cannot_be_filled(tmp_path, make_page, template, message):
    output = tmp_path / "results.md"
    output.write_text("what was there")
    with pytest.raises(SystemExit, match=rf"^report.py: {message}"):
        make_page(template, output)
    assert output.read_text() == "what was there"


def test_no_folder_of_results(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report.py", "--results", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=r"^report.py: .*nowhere does not exist"):
        report.main()


# Files that cannot be read.


def refused(tmp_path, make_page, message):
    with pytest.raises(SystemExit, match=rf"^report.py: {message}"):
        make_page("")
    assert not Path(tmp_path, "docs").exists()


@pytest.mark.parametrize(
    "second_line, message",
    [
        ('{"dataset": "ca', "is not JSON"),
        ("[1]", "is not an object"),
        ({"commit": ...}, "has no commit"),
        ({"dataset": "cows"}, "dataset 'cows' is unknown. There are: cats, dogs"),
        ({"recipe": "their"}, "recipe 'their' is unknown. There are: stock, ours"),
        ({"seed": 1}, "is of the same run as sampling_cats.jsonl, line 1: "),
        ({"seed": "2"}, "cannot be read: seed is '2'"),
        ({"AP": ...}, "has no 'AP'"),
        ({"AP": None}, "cannot be read: AP is None, AP50 is 20.0 and diverged_at is None"),
        ({"AP": float("nan")}, "cannot be read: AP is nan"),
        ({"diverged_at": 3}, "cannot be read: AP is 10.0, AP50 is 20.0 and diverged_at is 3"),
        ({"recipe": "ours"}, "cannot be read: it was made with {}, and they are {"),
        (
            {"config": "1234"},
            "cannot be read: it was made with another configs/demo/faster_rcnn_R_18.yaml than",
        ),
        ({"curves": {"iteration": [1], "num_fg": [], "num_bg": []}}, "cannot be read: zip"),
        ({"mean_roi_loss": [1]}, "cannot be read: "),
    ],
)
def test_malformed_runs(tmp_path, make_page, second_line, message):
    first = run_line("cats", "stock", 1, 10.0)
    if isinstance(second_line, dict):
        fields = {**first, "seed": 2, **second_line}
        second_line = json.dumps({k: v for k, v in fields.items() if v is not ...})
    write_lines(tmp_path / "results", "sampling_cats.jsonl", [first])
    with open(tmp_path / "results/sampling_cats.jsonl", "a") as file:
        file.write(second_line)
    refused(tmp_path, make_page, f"sampling_cats.jsonl, line 2:? {message}")


@pytest.mark.parametrize(
    "second, message",
    [
        (
            {"kind": "stop"},
            "kind 'stop' is unknown. There are: step, sweep, overlap, monitor, target",
        ),
        ({"kind": "sweep"}, "has no mining_batch_size"),
        ({"ratio": ...}, "has no ratio"),
        ({"variant": "stock"}, "is of the same as step_time.jsonl, line 1: step, VGG16, stock"),
    ],
)
def test_malformed_steps(tmp_path, make_page, second, message):
    second = {k: v for k, v in {**step_line("OHEM"), **second}.items() if v is not ...}
    write_lines(tmp_path / "results", "step_time.jsonl", [step_line("stock"), second])
    refused(tmp_path, make_page, f"step_time.jsonl, line 2:? {message}")
