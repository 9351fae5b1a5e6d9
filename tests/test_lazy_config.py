"""
The config in the style of LazyConfig, and the tool that trains with it, as a process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate

from ohem_d2 import OHEMROIHeads, use_ohem
from ohem_d2.data import IgnoreRegionsMapper
from ohem_d2.data.datasets.clutter import generate_clutter

ROOT = Path(__file__).parent.parent
CONFIG = "configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_ohem.py"
# Small, on the CPU, on the made dataset, which has no masks.
TINY = [
    "train.device=cpu",
    "train.init_checkpoint=",
    "train.max_iter=3",
    "train.log_period=1",
    "train.eval_period=3",
    "dataloader.train.dataset.names=clutter_coco_train",
    "dataloader.train.num_workers=0",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.mapper.use_instance_mask=false",
    "dataloader.train.mapper.augmentations=[]",
    "dataloader.test.dataset.names=clutter_coco_test",
    "dataloader.test.num_workers=0",
    "dataloader.test.mapper.augmentations=[]",
    "model.backbone.bottom_up.freeze_at=0",
    "model.backbone.bottom_up.stem.norm=BN",
    "model.backbone.bottom_up.stages.norm=BN",
    "model.roi_heads.num_classes=4",
    "model.roi_heads.ohem_warmup_iters=0",
    "model.roi_heads.mask_in_features=null",
    "model.roi_heads.mask_pooler=null",
    "model.roi_heads.mask_head=null",
]


def test_the_heads_are_built_from_plain_arguments():
    cfg = LazyConfig.load(str(ROOT / CONFIG))
    use_ohem(cfg)  # which they are already
    cfg.model.roi_heads.ohem_box_loss_weight = 0.5
    heads = instantiate(cfg.model.roi_heads)
    assert heads.ohem_warmup_iters == 9000  # a tenth of the training
    assert type(heads) is OHEMROIHeads and heads.mask_on
    assert (heads.ohem_nms_thresh, heads.ohem_box_loss_weight) == (0.7, 0.5)
    assert heads.batch_size_per_image == 512
    assert isinstance(instantiate(cfg.dataloader.train.mapper), IgnoreRegionsMapper)


@pytest.fixture
def run(tmp_path):
    generate_clutter(str(tmp_path), 0, {"train": 4, "test": 2})

    def run(*arguments, options=()):
        command = [sys.executable, "tools/lazyconfig_train_net.py", "--config-file", *arguments]
        return subprocess.run(
            [*command, *TINY, f"train.output_dir={tmp_path / 'output'}", *options],
            cwd=ROOT,
            env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    return run


def test_training_going_on_and_evaluation(run, tmp_path):
    process = run(CONFIG)
    assert process.returncode == 0, process.stderr
    metrics = [json.loads(x) for x in (tmp_path / "output/metrics.json").read_text().splitlines()]
    assert [x["iteration"] for x in metrics if "total_loss" in x] == [0, 1, 2]
    assert all(x["ohem/num_kept"] > 0 for x in metrics if "total_loss" in x)
    assert "bbox/AP" in metrics[-1]

    options = ["train.max_iter=4", "model.roi_heads.ohem_warmup_iters=4"]
    process = run(CONFIG, "--resume", options=options)
    assert process.returncode == 0, process.stderr
    assert "Mining never starts: model.roi_heads.ohem_warmup_iters is 4" in process.stdout
    metrics = [json.loads(x) for x in (tmp_path / "output/metrics.json").read_text().splitlines()]
    assert [x["iteration"] for x in metrics if "total_loss" in x] == [0, 1, 2, 3]

    weights = tmp_path / "output/model_final.pth"
    process = run(CONFIG, "--eval-only", options=[f"train.init_checkpoint={weights}"])
    assert process.returncode == 0, process.stderr
    assert "AP,AP50" in process.stdout.replace(" ", "")


def test_a_config_that_is_not_there(run):
    process = run("missing.py")
    assert process.returncode == 1
    assert "--config-file is 'missing.py', which does not exist." in process.stderr
