#!/usr/bin/env python3
"""
Train and evaluate a detector with or without online hard example mining.

    python train_net.py --config-file configs/demo/faster_rcnn_R_18_ohem.yaml
    python train_net.py --config-file ... --import my_datasets
    python train_net.py --config-file ... --resume
    python train_net.py --config-file ... --eval-only MODEL.WEIGHTS model_final.pth
    python train_net.py --config-file ... --eval-only MODEL.WEIGHTS model_final.pth \
        TEST.AUG.ENABLED True TEST.ITERATIVE_BBOX.ENABLED True TEST.BOX_VOTING.ENABLED True
"""

import logging
import sys
import weakref

from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ohem_d2 import OHEMMixin
from ohem_d2.checkpoint import AtomicCheckpointer, StrictCheckpointer
from ohem_d2.data import build_train_loader
from ohem_d2.engine import (
    AccumulatingTrainer,
    InputError,
    check_inputs,
    fall_back_to_cpu,
    import_module,
    load_config,
)
from ohem_d2.evaluation import evaluate_model, to_results, write_evaluations
from ohem_d2.modeling import ImageTooLargeError
from ohem_d2.modeling.test_time.build import uses_test_time_options, without_test_time_options

logger = logging.getLogger("ohem_d2")


class Trainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return build_train_loader(cfg)

    @classmethod
    def test(cls, cfg, model):
        """
        Evaluate a model as it is and, if the config says so, with test-time augmentation and so on,
        and put both in one table.

        Returns:
            dict: see :func:`to_results`.
        """
        evaluations = evaluate_model(cfg, model, cfg.OUTPUT_DIR)
        if evaluations and comm.is_main_process():
            table = write_evaluations(evaluations, cfg.OUTPUT_DIR)
            logger.info(f"Results, all of which are in {cfg.OUTPUT_DIR}/results.json:\n{table}")
        return to_results(evaluations)

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


def argument_parser():
    parser = default_argument_parser()
    parser.add_argument(
        "--import",
        metavar="MODULE",
        dest="module",
        help="a Python module that registers your datasets or models, such as my_datasets",
    )
    return parser


def setup(args):
    """
    Create configs and perform basic setups.
    """
    if args.module:
        import_module(args.module)
    cfg = load_config(args.config_file, args.opts)
    falls_back = fall_back_to_cpu(cfg)
    check_inputs(cfg, args.eval_only, args.resume)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="ohem_d2")

    if falls_back:
        logger.warning("MODEL.DEVICE is cuda, and there is none here: using the CPU.")
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
    if ohem.FOREGROUND == "sampled":
        foreground = f"of foreground a random sample of at most {heads.POSITIVE_FRACTION:.0%}"
    elif ohem.POSITIVE_FRACTION is None:
        foreground = "in no fixed ratio"
    else:
        foreground = f"at most {ohem.POSITIVE_FRACTION:.0%} of them foreground"
    return (
        f"{heads.NAME} (online hard example mining), the {heads.BATCH_SIZE_PER_IMAGE} RoIs an "
        f"image with the largest loss after NMS at {ohem.NMS_THRESH}"
        f"{' per class' if ohem.NMS_PER_CLASS else ''}, {foreground}."
    )


def main(args):
    try:
        return run(setup(args), args)
    except (ImageTooLargeError, InputError) as e:
        sys.exit(f"train_net.py: {e}")


def run(cfg, args):
    if args.eval_only:
        model = Trainer.build_model(cfg)
        StrictCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        res = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, res)
        return res

    # While it trains, the model is evaluated as it is: the rest would take many times as long.
    trainer = Trainer(without_test_time_options(cfg))
    trainer.resume_or_load(resume=args.resume)
    res = trainer.train()
    return Trainer.test(cfg, trainer.model) if uses_test_time_options(cfg) else res


if __name__ == "__main__":
    args = argument_parser().parse_args()
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
