#!/usr/bin/env python3
"""
Train and evaluate with a LazyConfig, like detectron2's tool of the same name.

    python tools/lazyconfig_train_net.py \
        --config-file configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_ohem.py
    python tools/lazyconfig_train_net.py --config-file ... --eval-only train.init_checkpoint=...
"""

import logging
import sys
from pathlib import Path

from detectron2 import _C
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import COCOEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm

from ohem_d2.checkpoint import AtomicCheckpointer, SafeCheckpointer
from ohem_d2.commands.command_line import launch_processes

logger = logging.getLogger("detectron2")


def do_test(cfg, model):
    if "evaluator" not in cfg.dataloader:
        return {}
    evaluator = instantiate(cfg.dataloader.evaluator)
    # detectron2 without its compiled extension has pycocotools' implementation only.
    if isinstance(evaluator, COCOEvaluator) and not hasattr(_C, "COCOevalEvaluateImages"):
        cfg.dataloader.evaluator.use_fast_impl = False
        evaluator = instantiate(cfg.dataloader.evaluator)
    results = inference_on_dataset(model, instantiate(cfg.dataloader.test), evaluator)
    print_csv_format(results)
    return results


def do_train(args, cfg):
    warmup_iters = cfg.model.roi_heads.get("ohem_warmup_iters", 0)
    if warmup_iters >= cfg.train.max_iter:
        logger.warning(
            f"Mining never starts: model.roi_heads.ohem_warmup_iters is {warmup_iters}, and "
            f"train.max_iter {cfg.train.max_iter}."
        )
    model = instantiate(cfg.model).to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = instantiate(cfg.dataloader.train)
    model = create_ddp_model(model, **cfg.train.ddp)
    trainer = (AMPTrainer if cfg.train.amp.enabled else SimpleTrainer)(model, loader, optimizer)
    # In detectron2 0.5, the trainer's state lacks the optimizer's.
    state = {} if "optimizer" in trainer.state_dict() else {"optimizer": optimizer}
    checkpointer = AtomicCheckpointer(model, cfg.train.output_dir, trainer=trainer, **state)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.EvalHook(cfg.train.eval_period, lambda: do_test(cfg, model)),
        ]
    )
    if comm.is_main_process():
        trainer.register_hooks(
            [
                hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
                hooks.PeriodicWriter(
                    default_writers(cfg.train.output_dir, cfg.train.max_iter),
                    period=cfg.train.log_period,
                ),
            ]
        )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    resumed = args.resume and checkpointer.has_checkpoint()
    trainer.train(trainer.iter + 1 if resumed else 0, cfg.train.max_iter)


def main(args):
    cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
    default_setup(cfg, args)
    if not args.eval_only:
        return do_train(args, cfg)
    model = instantiate(cfg.model).to(cfg.train.device)
    model = create_ddp_model(model)
    SafeCheckpointer(model).load(cfg.train.init_checkpoint)
    return do_test(cfg, model)


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    if not Path(args.config_file).is_file():
        sys.exit(f"--config-file is {args.config_file!r}, which does not exist.")
    launch_processes(main, args)
