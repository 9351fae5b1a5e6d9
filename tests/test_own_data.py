"""
docs/own_data.md, from its first command to its last.
"""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from conftest import VOC_IMAGES, make_voc
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from test_readme import read, snippets

from ohem_d2 import __main__ as cli
from ohem_d2.data.datasets.clutter import generate_clutter
from ohem_d2.utils import read_metrics

pytestmark = pytest.mark.slow

# Of the model zoo's detector, so that a CPU trains it in seconds.
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", "18"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.FPN.OUT_CHANNELS", "16"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "100"),
    *("INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "DATALOADER.NUM_WORKERS", "0"),
    *("SOLVER.WARMUP_ITERS", "1", "SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "(3,)"),
    *("VIS_PERIOD", "2", "MODEL.OHEM.WARMUP_ITERS", "1"),
    *("SOLVER.BASE_LR", "1e-6"),  # random weights, without a seed, must not diverge
]


@pytest.fixture
def my_data(tmp_path, monkeypatch):
    """
    A folder like that of the page, in the current folder.
    """
    monkeypatch.chdir(tmp_path)
    before = set(DatasetCatalog.list())
    generate_clutter(".", 0, {"train": 8, "test": 4})
    shutil.copytree("clutter/JPEGImages", "my_data/images")
    for theirs, mine in (("train", "train"), ("test", "val")):
        coco = json.loads(Path(f"clutter/coco/instances_{theirs}.json").read_text())
        coco["categories"] = coco["categories"][:2]
        kept = [x["id"] for x in coco["categories"]]
        coco["annotations"] = [x for x in coco["annotations"] if x["category_id"] in kept]
        Path(f"my_data/{mine}.json").write_text(json.dumps(coco))
    yield tmp_path
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def commands():
    """
    Those of the page, without "ohem-d2".
    """
    blocks = re.findall(r"```bash\n(.*?)```", read("docs/own_data.md"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(x, comments=True) for x in lines]
    return [x[1:] for x in words if x[0] == "ohem-d2"]


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["ohem-d2", *arguments])
    cli.main()


def mines(folder):
    return any("ohem/num_kept" in x for x in read_metrics(folder))


def test_the_commands(my_data, monkeypatch):
    first, *others = commands()
    assert [x[0] for x in others] == ["train", "train", "train", "compare", "check", "inspect"]
    run(monkeypatch, *first, *SMALL)
    for command in others:
        run(monkeypatch, *command)
    ohem, baseline = Path("output/my_ohem"), Path("output/my_baseline")
    config = yaml.safe_load((ohem / "config.yaml").read_text())
    assert config["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == 2
    assert mines(ohem) and not mines(baseline)
    for page in ("output/compare", f"{ohem}/hard_examples/coco_my_data_train.json_my_data_images"):
        assert (Path(page) / "index.html").is_file()
    # The same in the other layout.
    make_voc(my_data / "voc", "unused", {**VOC_IMAGES, "more": []})
    names = dict.fromkeys(("DATASETS.TRAIN", "DATASETS.TEST"), "('voc:voc:train',)")
    options = [x for item in names.items() for x in item]
    run(monkeypatch, *first, *SMALL, *options, "OUTPUT_DIR", "output/voc")
    assert Path("output/voc/inference/voc_voc_train/voc_results.json").is_file()


def test_the_script(my_data):
    script, load = snippets("docs/own_data.md")
    before = "default_setup(cfg, None)\n"
    assert before in script
    exec(script.replace(before, f"cfg.merge_from_list({SMALL})\n{before}"), {})
    assert mines("output/my_ohem")
    names = {"get_cfg": get_cfg}
    exec("import ohem_d2\n" + load, names)
    assert names["cfg"].MODEL.ROI_HEADS.NAME == "OHEMROIHeads"
