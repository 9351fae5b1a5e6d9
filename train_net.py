#!/usr/bin/env python3
"""
Train and evaluate a detector with or without online hard example mining.

    python train_net.py --config-file configs/demo/faster_rcnn_R_18_FPN_ohem.yaml
    python train_net.py --config-file ... --resume
    python train_net.py --config-file ... --eval-only MODEL.WEIGHTS model_final.pth
"""

import logging
import os
import sys
import weakref

import detectron2
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator, verify_results
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.utils import comm

from ohem_d2 import OHEMMixin, add_ohem_config
from ohem_d2.checkpoint import AtomicCheckpointer
from ohem_d2.data import build_train_loader
from ohem_d2.engine import AccumulatingTrainer, InputError, check_inputs

logger = logging.getLogger("detectron2.ohem_d2")  # below the one that default_setup configures


class Trainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return build_train_loader(cfg)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        if MetadataCatalog.get(dataset_name).get("evaluator_type") == "pascal_voc":
            return PascalVOCDetectionEvaluator(dataset_name)
        return COCOEvaluator(
            dataset_name,
            output_dir=os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name),
            # detectron2 without its compiled extension has pycocotools' implementation only.
            use_fast_impl=hasattr(detectron2._C, "COCOevalEvaluateImages"),
        )

    def build_hooks(self):
        if self.cfg.SOLVER.ACCUMULATION_PASSES > 1:
            self._trainer = AccumulatingTrainer(
                self._trainer.model,
                self._trainer.data_loader,
                self._trainer.optimizer,
                self.cfg.SOLVER.ACCUMULATION_PASSES,
                self.cfg.SOLVER.AMP.ENABLED,
            )
        # detectron2 0.5 does not have the state of the optimizer in the trainer's.
        state = {} if "_trainer" in self.state_dict() else {"optimizer": self._trainer}
        # Both here because the hook that saves checkpoints, which is built next, refers to them.
        self.checkpointer = AtomicCheckpointer(
            self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self), **state
        )
        return super().build_hooks()


def setup(args):
    """
    Create configs and perform basic setups.
    """
    cfg = get_cfg()
    add_ohem_config(cfg)
    if not os.path.exists(args.config_file):
        raise InputError(f"--config-file is {args.config_file!r}, which does not exist.")
    try:
        cfg.merge_from_file(args.config_file)
        cfg.merge_from_list(args.opts)
    except (AssertionError, KeyError, ValueError) as e:
        raise InputError(f"The config cannot be read: {e}") from e
    device = cfg.MODEL.DEVICE
    if device.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    check_inputs(cfg, args.eval_only, args.resume)
    cfg.freeze()
    default_setup(cfg, args)

    if device != cfg.MODEL.DEVICE:
        logger.warning(f"MODEL.DEVICE is {device}, and there is none here: using the CPU.")
    logger.info(f"RoI sampling in training: {describe_sampling(cfg)}")
    return cfg


def describe_sampling(cfg):
    """
    Returns:
        str: in a sentence, which RoIs the model that `cfg` describes is trained on.
    """
    heads, ohem = cfg.MODEL.ROI_HEADS, cfg.MODEL.OHEM
    if not issubclass(ROI_HEADS_REGISTRY.get(heads.NAME), OHEMMixin):
        background = f", background of an IoU of {heads.BG_LO} or more" if heads.BG_LO else ""
        return (
            f"{heads.NAME}, {heads.BATCH_SIZE_PER_IMAGE} RoIs an image at random, "
            f"at most {heads.POSITIVE_FRACTION:.0%} of them foreground{background}."
        )
    ratio = ohem.POSITIVE_FRACTION
    return (
        f"{heads.NAME} (online hard example mining), the {heads.BATCH_SIZE_PER_IMAGE} RoIs an "
        f"image with the largest loss after NMS at {ohem.NMS_THRESH}"
        f"{' per class' if ohem.NMS_PER_CLASS else ''}, "
        f"{'in no fixed ratio' if ratio is None else f'at most {ratio:.0%} of them foreground'}."
    )


def main(args):
    try:
        cfg = setup(args)
    except InputError as e:
        sys.exit(f"train_net.py: {e}")

    if args.eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        res = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, res)
        return res

    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
