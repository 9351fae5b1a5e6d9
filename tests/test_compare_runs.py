"""
tools/compare_runs.py on what train_net.py has written.
"""

import html
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, load_config, make_voc, use_clutter
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer, default_setup
from detectron2.evaluation import COCOEvaluator
from pages import fits_its_window
from tiny_training import CONFIG, parse, run_train_net

from ohem_d2.commands import compare_runs
from ohem_d2.data.datasets.clutter import generate_clutter

pytest_plugins = ["pages"]
pytestmark = pytest.mark.slow

RUN_B = "<img src=x onerror=alert(1)>"  # a folder
CLASSES = (RUN_B, "\"&amp;'", "卷心菜")
IMAGE_IDS = ("<b>&amp;'", "卷心菜")


def train(folder, heads, test_datasets):
    options = ["SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (), "MODEL.ROI_HEADS.NAME", heads]
    options += ["OUTPUT_DIR", folder, "DATASETS.TEST", tuple(test_datasets)]
    run_train_net(options=options)
    for file in folder.glob("*.pth"):
        file.unlink()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """
    A folder with datasets, and with two runs on them.
    """
    root = tmp_path_factory.mktemp("trained")
    generate_clutter(str(root / "datasets"), 0, {"train": 4, "test": 4})
    use_clutter(root / "datasets")
    train(root / "a", "HeuristicROIHeads", ["clutter_voc_test", "clutter_coco_test"])
    train(root / RUN_B, "OHEMROIHeads", ["clutter_voc_test"])
    return root


@pytest.fixture
def root(trained, tmp_path, monkeypatch):
    """
    A copy of it, which is the current folder.
    """
    shutil.copytree(trained, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    use_clutter("datasets")
    return tmp_path / "root"


@pytest.fixture
def run(monkeypatch):
    """
    The tool in this process.
    """

    def run(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["compare_runs.py", *map(str, arguments)])
            compare_runs.main()

    return run


def test_page_of_real_runs(root, open_page):
    # A dataset with odd names, which a module of the user registers, and detections of it.
    (name, other, third), (image, _) = CLASSES, IMAGE_IDS
    objects = [(html.escape(name), (11, 11, 40, 30), 0), (html.escape(other), (61, 41, 90, 70), 1)]
    make_voc(root / "voc", "odd", {image: objects, IMAGE_IDS[1]: []})
    DatasetCatalog.remove("odd")
    MetadataCatalog.pop("odd")
    Path("my_datasets.py").write_text(
        "from detectron2.data import MetadataCatalog\n"
        "from detectron2.data.datasets import register_pascal_voc\n"
        f"register_pascal_voc('odd', {str(root / 'voc')!r}, 'train', 2012, {CLASSES!r})\n"
        "MetadataCatalog.get('odd').evaluator_type = 'pascal_voc'\n"
    )
    for run_folder, score in (("a", 0.9), (RUN_B, 0.4)):
        folder = root / run_folder / "inference/odd"
        folder.mkdir()
        lines = dict.fromkeys(CLASSES, "")
        # The object is found, by B alone; what is on the difficult one does not count.
        lines[name] = f"{image} {score} 11 11 40 30\n" * (run_folder == RUN_B)
        lines[other] = f"{image} 0.8 61 41 90 70\n"
        lines[third] = f"{IMAGE_IDS[1]} {score} 1 1 20 20\n" * (run_folder == "a")
        for class_name, text in lines.items():
            (folder / f"comp4_det_train_{class_name}.txt").write_text(text)

    command = [sys.executable, "-W", "ignore", str(ROOT / "tools/compare_runs.py"), "a", RUN_B]
    result = subprocess.run(
        [*command, "--output", "new/page", "--import", "my_datasets", "--images", "4"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "DETECTRON2_DATASETS": str(root / "datasets"),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert result.stdout.endswith("\nOpen new/page/index.html\n")
    page = open_page("new/page/index.html", viewport={"width": 390, "height": 844})
    assert page.title() == f"a and {RUN_B}"
    assert fits_its_window(page)
    assert page.evaluate("[...document.images].every(x => x.complete && x.naturalWidth > 0)")
    # Only A has left detections of clutter_coco_test.
    sections = dict(zip(["clutter_voc_test", "odd"], page.locator("section").all(), strict=True))
    assert [x.locator("h2").text_content() for x in sections.values()] == list(sections)
    rows = page.locator("table").first.locator("tbody tr").all()
    differences = [x.locator("td").all_text_contents() for x in rows]
    assert ["MODEL.ROI_HEADS.NAME", "HeuristicROIHeads", "OHEMROIHeads"] in differences
    titles = sections["clutter_voc_test"].locator("thead th:first-child").all_text_contents()
    assert titles == ["of all classes", "AP50 of a class", "score of at least"]
    # results.json was written before there was the other dataset.
    assert "no test on this dataset" in sections["odd"].text_content()
    figures = sections["odd"].locator("figcaption").all_inner_texts()
    assert figures[:2] == ["A: 1 missed\na", f"B: 1 right\n{RUN_B}"]
    assert figures[2:] == ["A: 1 background\na", f"B: nothing to find, and no error\n{RUN_B}"]
    assert sections["odd"].locator("h4").all_text_contents() == [f"{x}.jpg" for x in IMAGE_IDS]
    labels = sections["odd"].locator("text").all_text_contents()
    assert labels[0] == f"missed: {RUN_B}" and f"{CLASSES[2]} 90 %" in labels


def test_names_of_runs(tmp_path):
    def names(a, b):
        return compare_runs.name_runs([tmp_path / a, tmp_path / b])

    assert names("x/a", "y/b") == ["a", "b"]
    assert names("x/seed_1/out", "x/seed_2/out") == ["seed_1/out", "seed_2/out"]
    assert names("out", "x/out")[1] == "x/out"


def test_seeds_of_two_recipes(root, run):
    # B again, with another seed and an AP that is higher by 2.
    shutil.copytree(RUN_B, "c")
    config = Path("c/config.yaml").read_text()
    Path("c/config.yaml").write_text(config.replace("SEED: 1", "SEED: 2"))
    results = json.loads(Path("c/results.json").read_text())
    results[0]["results"]["bbox"]["AP"] += 2
    Path("c/results.json").write_text(json.dumps(results))
    run("a", RUN_B, "c", "--output", "page")
    text = Path("page/index.html").read_text()
    ap = results[0]["results"]["bbox"]["AP"] - 1
    assert f"{ap:.1f} ± 1.4" in text  # the mean, and 2 / sqrt(2)
    assert f"<b>{html.escape(RUN_B)}</b>, c</dd>" in text
    # Three recipes are not two.
    Path("c/config.yaml").write_text(config.replace("MAX_ITER: 2", "MAX_ITER: 3"))
    with pytest.raises(
        SystemExit, match="The 3 runs have 3 configs, apart from SEED .*: a; <.*; c"
    ):
        run("a", RUN_B, "c", "--output", "other")
    with pytest.raises(SystemExit, match="One run is not enough"):
        run("a", "--output", "other")


def remove(path):
    def spoil(root):
        if (root / path).is_dir():
            shutil.rmtree(root / path)
        else:
            (root / path).unlink()

    return spoil


def write_to(path, text):
    return lambda root: (root / path).write_text(text)


def not_evaluated(root):
    (root / "a/results.json").unlink()
    (root / "a/metrics.json").write_text('{"iteration": 1, "total_loss": 1.0}\n')


RING = "a/inference/clutter_voc_test/comp4_det_test_ring.txt"


@pytest.mark.parametrize(
    "spoil, arguments, message",
    [
        (None, ["a", "nowhere"], "nowhere is not a folder. Give the OUTPUT_DIR"),
        (None, ["a", "../root/a"], "a and ../root/a are the same run"),
        (None, ["--output", "a"], "a already exists. Move it away, or choose another"),
        (None, ["--images", "-1"], "--images must be at least 0, not -1"),
        (None, ["--score-thresh", "50"], "--score-thresh must be from 0 to 1, not 50.0"),
        (None, ["--import", "my_data"], "No module named 'my_data'"),
        (remove("a/metrics.json"), [], "a has no metrics.json .* without --eval-only"),
        (write_to("a/metrics.json", '{"iteration": 1, "bbox/AP": 1.0}\n'), [], "a has no metrics"),
        (not_evaluated, [], "a/results.json does not exist: .* with --eval-only MODEL"),
        (write_to("a/results.json", "[{"), [], "a/results.json cannot be read: Expecting"),
        (remove("a/config.yaml"), [], "a/config.yaml does not exist: ohem-d2 train writes it"),
        *(
            (write_to("a/results.json", text), [], "a/results.json is not a list of tests")
            for text in (
                "3",
                '{"a": 1}',
                '[{"test": "plain"}]',
                '[{"test": "plain", "dataset": "x", "results": [1]}]',
                '[{"test": "plain", "dataset": "x", "results": {"bbox": {"AP": "high"}}}]',
            )
        ),
        (
            write_to("a/metrics.json", "[1]\n"),
            [],
            "a/metrics.json, line 1 is not a line of numbers",
        ),
        (write_to("a/metrics.json", '{"iteration": 1}\n{"x"\n'), [], "line 2 is not json"),
        (write_to("a/config.yaml", "- 1"), [], "a/config.yaml is not the config of a training"),
        (write_to("a/config.yaml", "DATASETS: 1"), [], "is not the config of a training"),
        (write_to("a/config.yaml", "X: [1"), [], "a/config.yaml cannot be read: while parsing"),
        (
            remove("a/inference/clutter_voc_test"),
            [],
            "same dataset. a: clutter_coco_test; <.*: clutter_voc_test",
        ),
        (remove("a/inference"), [], "a: none; .* ohem-d2 train --eval-only"),
        (remove(RING), [], f"{RING} is missing"),
        (write_to(RING, "no_image 0.5 1 1 2 2\n"), [], "on 1 images .* The first is no_image"),
        (
            remove("datasets/clutter/ImageSets"),
            [],
            r"\(a/inference/.*\) needs .*test.txt",
        ),
        (
            remove("datasets/clutter/JPEGImages"),
            [],
            "test_00000..jpg, an image of .*, does not exist",
        ),
    ],
)
def test_refusals(root, run, spoil, arguments, message):
    if spoil:
        spoil(root)
    runs = [] if arguments[:1] == ["a"] else ["a", RUN_B]
    arguments = [*runs, *arguments]
    if "--output" not in arguments:
        arguments += ["--output", "page"]
    with pytest.raises(SystemExit, match=r"(?s)^compare_runs.py: .*" + message):
        run(*arguments)
    assert not list(root.glob("page*"))


def test_a_dataset_that_is_not_registered(root, run):
    for folder in ("a", RUN_B):
        (root / folder / "inference/clutter_voc_test").rename(root / folder / "inference/mine")
    with pytest.raises(
        SystemExit, match=r"^compare_runs.py: mine, .* registered. Name .* with --import"
    ):
        run("a", RUN_B, "--output", "page")


class PlainTrainer(DefaultTrainer):
    """
    As in many a pipeline: nothing of this project.
    """

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        return COCOEvaluator(dataset_name, output_dir=folder, use_fast_impl=False)


def test_runs_of_a_default_trainer(root, run):
    for folder, heads in (("plain_a", "StandardROIHeads"), ("plain_b", "OHEMROIHeads")):
        options = ["SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (), "MODEL.ROI_HEADS.NAME", heads]
        options += ["OUTPUT_DIR", folder, "DATASETS.TEST", ("clutter_coco_test",)]
        args = parse("--config-file", CONFIG, options=options)
        cfg = load_config(CONFIG, *args.opts)
        default_setup(cfg, args)
        trainer = PlainTrainer(cfg)
        trainer.train()
        assert not Path(folder, "results.json").exists()
    run("plain_a", "plain_b", "--output", "page")
    text = Path("page/index.html").read_text()
    assert ">clutter_coco_test</h2>" in text
    # The AP that the trainer logged, and that of each class.
    ap = trainer.storage.latest()["bbox/AP-triangle"][0]
    assert "plain, bbox" in text and f"{ap:.1f}" in text


def test_results_in_metrics():
    config = {"DATASETS": {"TEST": ["one", "two/2"]}}
    lines = [
        {"iteration": 1, "one/bbox/AP": 1.0, "two/2/segm/AP-cat": 2.0, "data_time": 0.1},
        {"iteration": 2, "one/bbox/AP": 3.0, "roi_head/num_fg_samples": 4.0},
    ]
    assert compare_runs.results_of_metrics(lines, config) == [
        {"dataset": "one", "test": "plain", "results": {"bbox": {"AP": 3.0}}},
        {"dataset": "two/2", "test": "plain", "results": {"segm": {"AP-cat": 2.0}}},
    ]


def test_detections_of_coco(root, run, capsys):
    # B as A, but it has one detection, whose score is a whole number.
    shutil.copytree("a", "b")
    detection = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}
    file = Path("b/inference/clutter_coco_test/coco_instances_results.json")
    file.write_text(json.dumps([detection]))
    run("a", "b", "--output", "page", "--score-thresh", "0")
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "Open page/index.html"
    assert [x.split(":")[0] for x in lines] == ["clutter_coco_test", "clutter_voc_test"]
    text = Path("page/index.html").read_text()
    assert ">clutter_coco_test</h2>" in text and "triangle 100 %" in text
    file.write_text("{}")
    with pytest.raises(SystemExit, match="holds a dict. COCO's results are a list"):
        run("a", "b", "--output", "other")
