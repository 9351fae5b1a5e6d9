"""
Find out before training what would stop it later.
"""

import difflib
import os

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.utils.file_io import PathManager

__all__ = ["InputError", "check_inputs"]


class InputError(ValueError):
    """
    The user's input cannot be used. The message names it and the remedy.
    """


def check_inputs(cfg: CfgNode, eval_only: bool = False, resume: bool = False) -> None:
    """
    Check that the ROI heads are registered, and that the datasets, weights and proposals that a
    config names exist.

    Args:
        cfg (CfgNode): a detectron2 config.
        eval_only (bool): whether only the test datasets will be used.
        resume (bool): whether the weights will come from the last checkpoint, if there is one.

    Raises:
        InputError: for the first thing that is not there.
    """
    heads = cfg.MODEL.ROI_HEADS.NAME
    if heads not in ROI_HEADS_REGISTRY:
        raise InputError(
            f"MODEL.ROI_HEADS.NAME is {heads}, which is not registered."
            + _did_you_mean(heads, [name for name, _ in ROI_HEADS_REGISTRY])
        )
    if not eval_only and not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN is empty: it has to name what to train on.")
    if eval_only and not cfg.DATASETS.TEST:
        raise InputError("DATASETS.TEST is empty: it has to name what to evaluate on.")
    for key in ["TEST"] if eval_only else ["TRAIN", "TEST"]:
        _check_datasets(key, cfg.DATASETS[key])
        if cfg.MODEL.LOAD_PROPOSALS:
            _check_proposal_files(key, cfg.DATASETS)
    from_checkpoint = resume and os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))
    if cfg.MODEL.WEIGHTS and not from_checkpoint:
        _check_file("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS)


def _check_datasets(key: str, names: tuple[str, ...]) -> None:
    for name in names:
        registered = DatasetCatalog.list()
        if name not in registered:
            raise InputError(
                f"DATASETS.{key} names {name}, which is not registered."
                + _did_you_mean(name, registered)
            )
        metadata = MetadataCatalog.get(name)
        evaluator_type = metadata.get("evaluator_type", "coco")
        if key == "TEST" and evaluator_type not in ("coco", "pascal_voc"):
            raise InputError(
                f"DATASETS.TEST names {name}, which is evaluated by '{evaluator_type}'. "
                "Only 'coco' and 'pascal_voc' are supported."
            )
        paths = [metadata.get(x) for x in ("json_file", "image_root", "dirname")]
        if evaluator_type == "pascal_voc":
            paths.append(
                os.path.join(metadata.dirname, "ImageSets", "Main", f"{metadata.split}.txt")
            )
        for path in paths:
            if path and _is_missing(path):
                made_by = metadata.get("made_by")
                raise InputError(
                    f"Dataset {name} (DATASETS.{key}) needs {path}, which does not exist. "
                    + (f"It is made by: {made_by}. " if made_by else "")
                    + "The folder of all datasets is the environment variable "
                    "DETECTRON2_DATASETS, or else ./datasets."
                )


def _check_proposal_files(key: str, datasets: CfgNode) -> None:
    names, files = datasets[key], datasets[f"PROPOSAL_FILES_{key}"]
    if len(names) != len(files):
        raise InputError(
            f"DATASETS.PROPOSAL_FILES_{key} has {len(files)} files for the {len(names)} datasets "
            f"of DATASETS.{key}. MODEL.LOAD_PROPOSALS needs one for each."
        )
    for file in files:
        _check_file(f"DATASETS.PROPOSAL_FILES_{key}", file)


def _check_file(key: str, path: str) -> None:
    if _is_missing(path):
        raise InputError(f"{key} is {path}, which does not exist.")


def _is_missing(path: str) -> bool:
    # What is to be downloaded is not looked for.
    return "://" not in path and not PathManager.exists(path)


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known)
    return f" Did you mean {' or '.join(close)}?" if close else ""
