"""
The config in the style of LazyConfig, and the tool that trains with it.
"""

import json
import runpy
import sys

import pytest
from conftest import ROOT, use_clutter
from detectron2.config import LazyConfig, instantiate

from ohem_d2 import OHEMROIHeads, use_ohem
from ohem_d2.data import IgnoreRegionsMapper
from ohem_d2.data.datasets.clutter import generate_clutter

pytestmark = pytest.mark.slow

CONFIG = str(ROOT / "configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_ohem.py")
# Small, on the CPU, on the demo's dataset, which has no masks.
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
    "model.roi_heads.box_head.fc_dims=[16,1024]",
    "model.proposal_generator.pre_nms_topk=[200,200]",
    "model.proposal_generator.post_nms_topk=[100,50]",
]


def test_the_heads_are_built_from_plain_arguments():
    cfg = LazyConfig.load(CONFIG)
    use_ohem(cfg)  # which they are already
    cfg.model.roi_heads.ohem_box_loss_weight = 0.5
    heads = instantiate(cfg.model.roi_heads)
    assert heads.ohem_warmup_iters == 9000  # a tenth of the training
    assert type(heads) is OHEMROIHeads and heads.mask_on
    assert (heads.ohem_nms_thresh, heads.ohem_box_loss_weight) == (0.7, 0.5)
    assert heads.batch_size_per_image == 512
    assert isinstance(instantiate(cfg.dataloader.train.mapper), IgnoreRegionsMapper)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """
    The tool in this process.
    """
    generate_clutter(str(tmp_path), 0, {"train": 4, "test": 2})
    use_clutter(tmp_path)

    def run(*arguments, options=()):
        command = ["lazyconfig_train_net.py", "--config-file", *arguments, *TINY]
        command += [f"train.output_dir={tmp_path / 'output'}", *options]
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(str(ROOT / "tools/lazyconfig_train_net.py"), run_name="__main__")

    return run


def test_training_going_on_and_evaluation(run, tmp_path):
    run(CONFIG)
    metrics = [json.loads(x) for x in (tmp_path / "output/metrics.json").read_text().splitlines()]
    assert [x["iteration"] for x in metrics if "total_loss" in x] == [0, 1, 2]
    assert all(x["ohem/num_kept"] > 0 for x in metrics if "total_loss" in x)
    assert "bbox/AP" in metrics[-1]

    run(CONFIG, "--resume", options=["train.max_iter=4"])
    metrics = [json.loads(x) for x in (tmp_path / "output/metrics.json").read_text().splitlines()]
    assert [x["iteration"] for x in metrics if "total_loss" in x] == [0, 1, 2, 3]

    log = tmp_path / "output/log.txt"
    log.write_text("")
    weights = tmp_path / "output/model_final.pth"
    run(CONFIG, "--eval-only", options=[f"train.init_checkpoint={weights}"])
    assert "AP,AP50" in log.read_text()


def test_a_config_that_is_not_there(run):
    with pytest.raises(SystemExit, match="--config-file is 'missing.py', which does not exist."):
        run("missing.py")
