"""
The mean loss over all RoIs of a dataset, for every checkpoint of a training: Figure 3 of the paper.
Unlike the training loss, it does not depend on how RoIs are sampled, so trainings can be compared.

    %(prog)s output

It prints a table and writes roi_loss.json beside the checkpoints. A stopped run continues with the
next checkpoint when the same command is given again.
"""

import sys
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from ..checkpoint import load_model
from ..engine import InputError, fall_back_to_cpu, import_module, load_config
from ..engine.input_checks import check_inputs
from ..evaluation import build_mean_roi_loss_loader, mean_roi_loss
from ..evaluation.mean_roi_loss import ROI_LOSS_FILE, find_checkpoints, read_roi_losses
from ..utils import write_json
from .command_line import add_import_argument, exit_on_error, make_parser


def measure(folder: Path, dataset: str, opts: list[str]) -> dict[int, float]:
    """
    Args: those of the command line.

    Returns:
        dict[int, float]: mean loss over all RoIs, by iteration.

    Raises:
        InputError: if the input cannot be used.
    """
    cfg = load_config(str(folder / "config.yaml"), opts)
    fall_back_to_cpu(cfg)
    dataset = dataset or next(iter(cfg.DATASETS.TRAIN), "")
    if dataset not in cfg.DATASETS.TRAIN:
        raise InputError(f"{dataset} is not one of DATASETS.TRAIN: {list(cfg.DATASETS.TRAIN)}.")
    losses = read_roi_losses(folder, dataset)
    checkpoints = find_checkpoints(folder, cfg.SOLVER.MAX_ITER)
    if not checkpoints:
        raise InputError(f"{folder} has no checkpoint, model_*.pth.")
    cfg.DATASETS.TEST = cfg.DATASETS.PROPOSAL_FILES_TEST = ()  # not needed, so not checked
    cfg.MODEL.WEIGHTS = str(next(iter(checkpoints.values())))
    check_inputs(cfg)
    # A checkpoint that was written later belongs to another training.
    measured = (folder / ROI_LOSS_FILE).stat().st_mtime if losses else 0
    current = {k for k, x in checkpoints.items() if x.stat().st_mtime <= measured}
    losses = {k: x for k, x in losses.items() if k in current}
    missing = [x for x in checkpoints if x not in losses]
    if not missing:
        return losses
    loader = build_mean_roi_loss_loader(cfg, dataset)
    for iteration in missing:
        cfg.MODEL.WEIGHTS = str(checkpoints[iteration])
        bar = tqdm(loader, f"iteration {iteration}", unit="image", leave=False, disable=None)
        try:
            losses[iteration] = mean_roi_loss(load_model(cfg), bar)
        except ValueError as e:
            raise InputError(str(e)) from e
        losses = dict(sorted(losses.items()))
        write_json(folder / ROI_LOSS_FILE, {"dataset": dataset, "losses": losses})
    return losses


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="OUTPUT_DIR of a training")
    parser.add_argument("--dataset", default="", help="default: the first of DATASETS.TRAIN")
    parser.add_argument("opts", nargs="*", help="config options, such as MODEL.DEVICE cpu")
    add_import_argument(parser)
    args = parser.parse_intermixed_args()
    try:
        with exit_on_error():
            import_module(args.module)
            losses = measure(args.folder, args.dataset, args.opts)
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command continues with the next checkpoint.")
    print(tabulate(losses.items(), ["iterations", "mean loss over all RoIs"], "github"))
