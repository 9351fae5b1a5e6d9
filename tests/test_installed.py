"""
The package as pip installs it, from a source release, and what its two users do with it, without a
clone: from their data to a comparison, and from proposals to the table of test-time options.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from paper_data import TINY
from test_own_data import SMALL
from test_readme import snippets

from ohem_d2.data.datasets.clutter import generate_clutter

pytestmark = pytest.mark.slow

PHOTOGRAPHS = ROOT.parent / "shared/data/coco604"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """
    A folder with the installed package, which comes before the one of this clone.
    """
    folder = tmp_path_factory.mktemp("installed")
    build = "from setuptools.build_meta import *; "
    subprocess.run(
        [sys.executable, "-c", build + f"build_sdist({str(folder)!r})"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (release,) = folder.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", folder, release], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", folder / "site", wheel], check=True)
    return folder / "site"


@pytest.fixture
def run(site, tmp_path):
    """
    Python in an empty folder, with the installed package.
    """
    # Beside the site, what this Python has, such as another detectron2.
    others = [x for x in sys.path if not Path(x or ".").resolve().is_relative_to(ROOT / "tools")]
    others = [x for x in others if Path(x or ".").resolve() != ROOT]

    def run(*arguments):
        result = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *others])},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout

    return run


def test_what_is_in_it(site, run):
    (wheel,) = site.parent.glob("*.whl")
    files = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("ohem_d2", "configs"):
        for x in (ROOT / folder).rglob("*"):
            if x.is_file() and x.suffix in (
                ".py",
                ".yaml",
                ".json",
                ".html",
                ".css",
                ".js",
                ".typed",
            ):
                name = x.relative_to(ROOT).as_posix()
                assert ("ohem_d2/" * (folder == "configs") + name) in files
    name = "PascalVOC-Detection/fast_rcnn_VGG16_ohem.yaml"
    code = f"import ohem_d2.model_zoo as zoo; print(zoo.get_config_file({name!r}))"
    printed = run("-W", "ignore", "-c", code)
    assert printed.strip() == str(site / "ohem_d2/configs" / name)
    assert (site / "bin/ohem-d2").is_file()


def test_the_paper_without_its_data(run):
    """
    What is missing is listed, and what would be done.
    """
    command = ["reproduce", "--rows", "table1/VGG_CNN_M_1024/ohem", "--dry-run", "--opts", *TINY]
    printed = run("-W", "ignore", "-m", "ohem_d2", *command)
    assert "Missing: voc_2007_test: there is no VOC2007/" in printed
    assert "Missing: VGG_CNN_M_1024: name its weights with --vgg-m-weights" in printed
    assert "ohem-d2 train --resume --config-file PascalVOC-Detection/fast_rcnn_VGG_CNN_M" in printed


def test_snippets_of_the_readme(run, tmp_path):
    """
    One after the other, in one process: each begins with its imports.
    """
    (tmp_path / "snippets.py").write_text("\n".join(snippets("README.md")))
    run("snippets.py")


def test_snippets_of_the_docs(site, run):
    code = f"""
import sys
import pytest
import ohem_d2
assert ohem_d2.__file__.startswith({str(site)!r}), ohem_d2.__file__
sys.exit(pytest.main([{str(ROOT / "tests/test_readme.py")!r}, "-k", "snippet or heads_of_a_user"]))
"""
    assert " passed" in run("-c", code)


def with_masks(split, folder):
    """
    A few photographs of the set in COCO's format, with each box as the mask of its object.
    """
    coco = json.loads((PHOTOGRAPHS / f"instances_{split}.json").read_text())
    kept = {x["image_id"] for x in coco["annotations"]}
    coco["images"] = [x for x in coco["images"] if x["id"] in kept][:6]
    kept = {x["id"] for x in coco["images"]}
    coco["annotations"] = [x for x in coco["annotations"] if x["image_id"] in kept]
    for x in coco["annotations"]:
        x0, y0, width, height = x["bbox"]
        x1, y1 = x0 + width, y0 + height
        x["segmentation"] = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    (folder / f"{split}.json").write_text(json.dumps(coco))


@pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="needs photographs in ../shared/data")
def test_a_mask_rcnn_on_photographs(run, tmp_path):
    """
    The script of docs/own_data.md, with masks, once with OHEM and once without; then the commands.
    """
    for split in ("train", "test"):
        with_masks(split, tmp_path)
    script = snippets("docs/own_data.md")[0]
    small = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, *SMALL]
    for old, new in (
        ('("train", "val")', '("train", "test")'),
        ('"my_data/images"', f'f"{PHOTOGRAPHS}/{{split}}"'),
        ('f"my_data/{split}.json"', 'f"{split}.json"'),
        ('("my_val",)', '("my_test",)'),
        ("COCO-Detection/faster_rcnn", "COCO-InstanceSegmentation/mask_rcnn"),
        ("NUM_CLASSES = 2", "NUM_CLASSES = 80"),
        ("default_setup(cfg, None)", f"cfg.merge_from_list({small})\ndefault_setup(cfg, None)"),
    ):
        assert old in script, old
        script = script.replace(old, new)
    register, _ = script.split("NAME = ")
    (tmp_path / "my_datasets.py").write_text(register)
    (tmp_path / "ohem.py").write_text(script)
    baseline = script.replace("ohem_d2.use_ohem(cfg)", "pass").replace("my_ohem", "my_baseline")
    (tmp_path / "baseline.py").write_text(baseline)
    run("ohem.py")
    run("baseline.py")
    command = ("-m", "ohem_d2")
    runs = ("output/my_baseline", "output/my_ohem")
    printed = run(*command, "compare", *runs, "--import", "my_datasets")
    assert printed.startswith("my_test: AP") and "segm" in printed
    results = "output/my_ohem/inference/my_test/coco_instances_results.json"
    printed = run(*command, "evaluate", "my_test", results, "--import", "my_datasets")
    assert "| AP50" in printed and "segm" in printed
    printed = run(
        *(*command, "inspect", "--config-file", "output/my_ohem/config.yaml"),
        *("--import", "my_datasets", "MODEL.WEIGHTS", "output/my_ohem/model_final.pth"),
    )
    assert printed.endswith("Open output/my_ohem/hard_examples/my_train/index.html\n")


def test_from_proposals_to_the_table_of_test_time_options(run, tmp_path):
    """
    The paper's system on a tree like VOC07's, small.
    """
    generate_clutter(str(tmp_path), 0, {"train": 4, "test": 3})
    command = ("-m", "ohem_d2")
    (tmp_path / "datasets/proposals").mkdir(parents=True)
    for split in ("train", "test"):
        name = f"voc:clutter:{split}"
        run(*command, "proposals", name, f"datasets/proposals/clutter_voc_{split}.pkl")
    options = [
        *("MODEL.DEVICE", "cpu", "DATASETS.TRAIN", "('voc:clutter:train',)"),
        *("DATASETS.TEST", "('voc:clutter:test',)", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"),
        *("DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", "output/ohem"),
        *("MODEL.OHEM.WARMUP_ITERS", "0"),
    ]
    config = "demo/fast_rcnn_VGG16_ohem.yaml"
    run(*command, "train", "--config-file", config, *options)
    printed = run(
        *(*command, "ablation", "--config-file", "output/ohem/config.yaml"),
        *("--weights", "output/ohem/model_final.pth", "TEST.AUG.MIN_SIZES", "(64,96)"),
    )
    assert printed.count("| yes") > 3
    assert Path(tmp_path, "output/ablation/ablation.md").is_file()
