"""
The package trains wherever detectron2 does: with install_requires and what detectron2 imports
itself, nothing more.
"""

import subprocess
import sys

import pytest

OPTIONAL = ["cv2", "jinja2", "matplotlib", "pandas", "scipy"]


@pytest.mark.slow
def test_a_training_step_without_optional_packages():
    # None in sys.modules makes an import fail as if the package were not installed.
    script = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL}))

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

import ohem_d2
import ohem_d2.commands.train
from ohem_d2 import model_zoo

cfg = get_cfg()
ohem_d2.add_ohem_config(cfg)
cfg.merge_from_file(model_zoo.get_config_file("demo/faster_rcnn_R_18_ohem.yaml"))
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.OHEM.WARMUP_ITERS = 0
model = build_model(cfg)
objects = Instances((96, 128), gt_boxes=Boxes(torch.tensor([[10.0, 10, 60, 60]])))
objects.gt_classes = torch.tensor([0])
with EventStorage() as storage:
    sum(model([dict(image=torch.zeros(3, 96, 128), instances=objects)]).values()).backward()
    assert storage.latest()["ohem/num_kept"][0] > 0
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
