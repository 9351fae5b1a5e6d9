# The model zoo's LazyConfig of the same name with OHEM, for tools/lazyconfig_train_net.py.
from detectron2 import model_zoo

from ohem_d2 import use_ohem
from ohem_d2.data import IgnoreRegionsMapper

config = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
use_ohem(config)
model, optimizer, lr_multiplier = config.model, config.optimizer, config.lr_multiplier
dataloader, train = config.dataloader, config.train

# Settings of OHEM are arguments of OHEMMixin, by name:
model.roi_heads.ohem_nms_thresh = 0.7
# Treat crowds as ignore regions.
dataloader.train.mapper._target_ = IgnoreRegionsMapper
