"""
Train and evaluate a detector with or without online hard example mining.

    ohem-d2 train --config-file demo/faster_rcnn_R_18_ohem.yaml
    ohem-d2 train --config-file ... --import my_datasets
    ohem-d2 train --config-file ... --resume
    ohem-d2 train --config-file ... --eval-only MODEL.WEIGHTS model_final.pth
    ohem-d2 train --config-file ... --eval-only MODEL.WEIGHTS model_final.pth \
        TEST.AUG.ENABLED True TEST.ITERATIVE_BBOX.ENABLED True TEST.BOX_VOTING.ENABLED True
"""

import logging
import os
import weakref
from contextlib import nullcontext
from functools import partial

from detectron2.engine import (
    DefaultTrainer,
    TrainerBase,
    default_argument_parser,
    default_setup,
)
from detectron2.evaluation import verify_results
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, TensorboardXWriter
from detectron2.utils.logger import setup_logger

from ..checkpoint import AtomicCheckpointer, StrictCheckpointer
from ..data import build_train_loader
from ..data.datasets.by_path import folder_name
from ..engine import (
    AccumulatingTrainer,
    check_inputs,
    fall_back_to_cpu,
    find_config,
    import_module,
    load_config,
)
from ..engine.folder_lock import folder_lock
from ..engine.peak_memory import PeakMemory
from ..engine.resumable_steps import ResumableSteps
from ..evaluation import build_evaluator, evaluate_model
from ..modeling import ImageTooLargeError, OHEMMixin
from ..modeling.roi_heads.describe_sampling import describe_sampling
from ..modeling.roi_heads.ohem import warmup_iters
from ..modeling.test_time.options import uses_test_time_options, with_test_time_options
from ..utils import InputError, config_errors
from ..utils.atomic import named_errors
from ..utils.metrics_file import LateJSONWriter, drop_metrics
from .command_line import (
    add_import_argument,
    exit_on_error,
    is_killed_worker,
    launch_processes,
)

logger = logging.getLogger("ohem_d2")


class Trainer(DefaultTrainer):
    @classmethod
    def build_model(cls, cfg):
        with config_errors(cfg):
            model = super().build_model(cfg)
        roi_heads = getattr(model, "roi_heads", None)
        if isinstance(roi_heads, ROIHeads) and not isinstance(roi_heads, OHEMMixin):
            logger.info(f"RoI sampling in training: {describe_sampling(roi_heads)}")
        return model

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        with config_errors(cfg):
            return super().build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg):
        return build_train_loader(cfg)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        if output_folder is None:
            output_folder = os.path.join(cfg.OUTPUT_DIR, "inference", folder_name(dataset_name))
        return build_evaluator(dataset_name, output_folder, cfg.TEST.KEYPOINT_OKS_SIGMAS)

    @classmethod
    def test(cls, cfg, model):
        """
        Evaluate the plain model, without test-time augmentation, iterative regression and voting.
        """
        plain = with_test_time_options(cfg, multi_scale=False, regression_and_voting=False)
        return evaluate_model(plain, model, partial(cls.build_evaluator, cfg))

    @classmethod
    def test_with_TTA(cls, cfg, model):
        """
        Evaluate the model with what TEST.AUG, TEST.ITERATIVE_BBOX and TEST.BOX_VOTING enable.
        """
        return evaluate_model(cfg, model, partial(cls.build_evaluator, cfg))

    def train(self):
        # It logs the traceback of whatever ends a training. What exit_on_error() explains needs
        # none.
        train_loop = logging.getLogger(TrainerBase.__module__)
        train_loop.addFilter(_is_unexplained)
        try:
            return super().train()
        except FloatingPointError as e:  # detectron2's: of a loss, or of what the RPN predicts
            raise FloatingPointError(
                f"{e}\nTraining diverged. Start again with SOLVER.CLIP_GRADIENTS.ENABLED True or a "
                "lower SOLVER.BASE_LR."
            ) from e
        finally:
            train_loop.removeFilter(_is_unexplained)

    def build_hooks(self):
        if self.cfg.SOLVER.ACCUMULATION_PASSES > 1:
            self._trainer = AccumulatingTrainer(
                self._trainer.model,
                self._trainer.data_loader,
                self._trainer.optimizer,
                self.cfg.SOLVER.ACCUMULATION_PASSES,
                self.cfg.SOLVER.AMP.ENABLED,
            )
        # detectron2 0.5 does not save the optimizer with the trainer.
        state = {} if "_trainer" in self.state_dict() else {"optimizer": self._trainer}
        # Replaced here because the hook that saves checkpoints, built next, refers to them.
        self.checkpointer = AtomicCheckpointer(
            self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self), **state
        )
        steps = ResumableSteps(self._trainer.data_loader)
        return [steps, PeakMemory(), *super().build_hooks()]

    def build_writers(self):
        return [
            CommonMetricPrinter(self.max_iter),
            LateJSONWriter(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json")),
            TensorboardXWriter(self.cfg.OUTPUT_DIR),
        ]

    def resume_or_load(self, resume=True):
        """
        Same as :meth:`DefaultTrainer.resume_or_load`. A resumed training goes on as if it had not
        been stopped: with the next images, and with the same random numbers.
        """
        super().resume_or_load(resume)
        self._trainer.data_loader.start = self.start_iter
        if self.start_iter > 0 and comm.is_main_process():
            drop_metrics(self.cfg.OUTPUT_DIR, from_iteration=self.start_iter)


def _is_unexplained(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    explained = isinstance(error, (InputError, OSError, FloatingPointError))
    return not (explained or is_killed_worker(error))


def argument_parser():
    parser = default_argument_parser()
    add_import_argument(parser)
    return parser


def load(args):
    """
    Returns:
        CfgNode: the config, checked.
        bool: whether it is to use the CPU because there is no GPU.
    """
    import_module(args.module)
    args.config_file = find_config(args.config_file)  # default_setup() prints it
    cfg = load_config(args.config_file, args.opts)
    falls_back = fall_back_to_cpu(cfg)
    check_inputs(cfg, args.eval_only, args.resume)
    cfg.freeze()
    return cfg, falls_back


def setup(args, cfg, falls_back):
    """
    Perform basic setups, which write to OUTPUT_DIR.
    """
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="ohem_d2")
    if falls_back:
        logger.warning("MODEL.DEVICE is cuda, but CUDA is not available: using the CPU.")
    mines = issubclass(ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME), OHEMMixin)
    if mines and not args.eval_only and warmup_iters(cfg) >= cfg.SOLVER.MAX_ITER:
        logger.warning(
            f"Mining never starts: MODEL.OHEM.WARMUP_ITERS is {warmup_iters(cfg)}, and "
            f"SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}."
        )


def run(args):
    cfg, falls_back = load(args)
    trains = not args.eval_only and comm.is_main_process()
    lock = folder_lock(cfg.OUTPUT_DIR) if trains else nullcontext()
    with lock, named_errors(cfg.OUTPUT_DIR):
        setup(args, cfg, falls_back)
        return run_with_config(args, cfg)


def run_with_config(args, cfg):
    if args.eval_only:
        model = Trainer.build_model(cfg)
        StrictCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        results = Trainer.test(cfg, model)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
        model, results = trainer.model, trainer._last_eval_results
    if uses_test_time_options(cfg):
        for key, value in Trainer.test_with_TTA(cfg, model).items():
            results.setdefault(key, {}).update(value)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def train(args):
    """
    Train or, with --eval-only, evaluate: what each process does.

    Args:
        args: what :func:`argument_parser` has parsed.

    Returns:
        dict: the results, by task or dataset and metric.
    """
    with exit_on_error(ImageTooLargeError, FloatingPointError):
        return run(args)


def main():
    launch_processes(train, argument_parser().parse_args())
