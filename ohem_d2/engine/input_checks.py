"""
Find out before training what would stop it later.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any, Optional

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..data.dataset_findings import find_in_records, load_records
from ..data.datasets.by_path import FORMS, is_path, register_by_path
from ..data.datasets.voc import image_set_file, is_voc
from ..data.difficult import check_practice, handle_difficult_objects
from ..data.proposal_file import check_proposals, read_proposals
from ..data.sound_annotations import check_annotations
from ..evaluation.build import evaluator_type
from ..modeling.test_time.options import check_test_time_options
from ..utils import InputError, did_you_mean
from .config_checks import check_config

__all__ = ["check_dataset", "check_inputs", "check_registered"]

logger = logging.getLogger(__name__)

Records = list[dict[str, Any]]

# Of a json file, in bytes. With COCO's 118,000 images it has 450 MB: it takes half a minute to look
# into, once, and as long to load, each time.
MAX_SIZE, MAX_LOADED = 2**30, 100 * 2**20

UNKNOWN_DATASET = (
    "If a Python module of yours registers it, name that with --import. Files need no name: write "
    f"{FORMS}."
)


def check_inputs(
    cfg: CfgNode, eval_only: bool = False, resume: bool = False, evaluates: bool = True
) -> None:
    """
    Check that the values of the config make sense, that the ROI heads are registered, that datasets
    and weights exist, that annotations can be used, that classes, masks, keypoints and proposals
    are those of the datasets, and that the model supports the test-time options.

    Args:
        cfg (CfgNode): a detectron2 config.
        eval_only (bool): whether only the test datasets are used.
        resume (bool): whether the weights come from the last checkpoint, if there is one.
        evaluates (bool): whether the test datasets are evaluated on, which asks for more.

    Raises:
        InputError: for the first thing that is missing or does not fit.
    """
    check_config(cfg)
    heads = cfg.MODEL.ROI_HEADS.NAME
    if heads not in ROI_HEADS_REGISTRY:
        raise InputError(
            f"MODEL.ROI_HEADS.NAME is {heads}, which is not registered."
            + did_you_mean(heads, [name for name, _ in ROI_HEADS_REGISTRY])
        )
    if cfg.MODEL.ROI_HEADS.BG_LO and heads != "HeuristicROIHeads":
        raise InputError(
            f"MODEL.ROI_HEADS.BG_LO {cfg.MODEL.ROI_HEADS.BG_LO} requires MODEL.ROI_HEADS.NAME "
            f"HeuristicROIHeads. {heads} ignores it: set it to 0."
        )
    try:
        check_practice(cfg.DATASETS.DIFFICULT)
    except ValueError as e:
        raise InputError(str(e)) from e
    check_test_time_options(cfg)
    if not eval_only and cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE.startswith("cpu"):
        raise InputError(
            "SOLVER.AMP.ENABLED is True, but there is no GPU, or MODEL.DEVICE is cpu: detectron2 "
            "trains in mixed precision on GPUs only. Set it to False."
        )
    if not eval_only and not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN is empty. Name the datasets to train on.")
    if eval_only and not cfg.DATASETS.TEST:
        raise InputError("DATASETS.TEST is empty. Name the datasets to evaluate on.")
    for key in ["TEST"] if eval_only else ["TRAIN", "TEST"]:
        records = _check_datasets(cfg, key, evaluates and key == "TEST")
        if key == "TRAIN":
            _check_objects(cfg, records)
        if cfg.MODEL.LOAD_PROPOSALS:
            _check_proposal_files(key, cfg.DATASETS, records)
    from_checkpoint = resume and os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))
    if from_checkpoint:
        return
    if eval_only and not cfg.MODEL.WEIGHTS:
        raise InputError("MODEL.WEIGHTS is empty. Name the weights to evaluate.")
    if cfg.MODEL.WEIGHTS:
        _check_file("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS)


def check_dataset(name: str, named_by: str, is_evaluated: bool = False) -> Optional[Records]:
    """
    Check that a dataset is registered, and that its files exist and can be used.

    Args:
        name (str): as in DatasetCatalog.
        named_by (str): what names it, such as "DATASETS.TRAIN".
        is_evaluated (bool): see :func:`find_in_files`.

    Returns:
        list[dict]: in detectron2's dataset format. None if it is too large to load it twice.

    Raises:
        InputError: if it is missing, or for the first error in its annotations.
    """
    check_registered(name, named_by)
    try:
        return _load_sound(name, is_evaluated)
    except InputError as e:
        raise InputError(f"{e} `ohem-d2 check {name}` lists all findings.") from e


def _load_sound(name: str, is_evaluated: bool) -> Optional[Records]:
    """
    The second part of :func:`check_dataset`.
    """
    size = _json_size(name)
    # Of several processes, one is enough: if it ends, the others are ended.
    if size <= MAX_SIZE and comm.is_main_process():
        harmless = check_annotations(name, is_evaluated)
        if harmless:
            logger.warning(
                f"{name} has {harmless} faults that do no harm here, such as boxes beyond their "
                f"image. `ohem-d2 check {name}` lists them."
            )
    if size > MAX_LOADED:
        return None
    records = load_records(name)
    for finding in find_in_records(name, records):
        raise InputError(finding.text)
    return records


def check_registered(name: str, named_by: str) -> None:
    """
    The first part of :func:`check_dataset`: that it is registered, and that its files exist.

    Raises:
        InputError: if it is missing.
    """
    if is_path(name):
        register_by_path(name)
    registered = DatasetCatalog.list()
    if name not in registered:
        raise InputError(
            f"{named_by} names {name}, which is not registered."
            + (did_you_mean(name, registered) or f" {UNKNOWN_DATASET}")
        )
    metadata = MetadataCatalog.get(name)
    paths = [metadata.get(x) for x in ("json_file", "image_root", "dirname")]
    if is_voc(name):
        paths.append(str(image_set_file(metadata.dirname, metadata.split)))
    for path in paths:
        if path and _is_missing(path):
            made_by = metadata.get("made_by")
            raise InputError(
                f"Dataset {name} ({named_by}) needs {path}, which does not exist. "
                + (f"Make it with: {made_by}. " if made_by else "")
                + "Datasets are in the folder that the environment variable DETECTRON2_DATASETS "
                "names, by default ./datasets."
            )


def _json_size(name: str) -> int:
    """
    Returns:
        int: in bytes; 0 if a dataset is not in such a file.
    """
    file = MetadataCatalog.get(name).get("json_file")
    return os.path.getsize(file) if file and os.path.exists(file) else 0


def _check_datasets(cfg: CfgNode, key: str, are_evaluated: bool) -> dict[str, Optional[Records]]:
    """
    Returns:
        for each dataset what :func:`check_dataset` returns.
    """
    loaded = {}
    for name in cfg.DATASETS[key]:
        loaded[name] = check_dataset(name, f"DATASETS.{key}", are_evaluated)
        if are_evaluated:
            evaluator_type(name)
        class_names = MetadataCatalog.get(name).get("thing_classes")
        num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        has_roi_heads = cfg.MODEL.META_ARCHITECTURE in ("GeneralizedRCNN", "PanopticFPN")
        if has_roi_heads and class_names and len(class_names) != num_classes:
            raise InputError(
                f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but {name} has {len(class_names)} "
                f"classes: {', '.join(class_names[:5])}" + (", ..." if len(class_names) > 5 else "")
            )
    return loaded


def _check_objects(cfg: CfgNode, loaded: Mapping[str, Optional[Records]]) -> None:
    """
    Check that there is something to train on.
    """
    needed = {"segmentation": cfg.MODEL.MASK_ON, "keypoints": cfg.MODEL.KEYPOINT_ON}
    has_objects = has_annotations = False
    for name, records in loaded.items():
        records = handle_difficult_objects(records or [], [name], cfg.DATASETS.DIFFICULT)
        for record in (x for x in records if "annotations" in x):
            has_annotations = True
            objects = [x for x in record["annotations"] if not x.get("iscrowd", 0)]
            has_objects |= bool(objects)
            for field in (k for k, is_needed in needed.items() if is_needed):
                if not all(x.get(field) for x in objects):
                    switch = "MASK_ON" if field == "segmentation" else "KEYPOINT_ON"
                    raise InputError(
                        f"MODEL.{switch} is True, but image {record.get('image_id')} of {name} has "
                        f"an object without {field}. Set it to False, or use data that has them."
                    )
    is_all = None not in loaded.values()
    if is_all and has_annotations and not has_objects and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        raise InputError(
            f"No image of {', '.join(loaded)} has an object to train on: there are none, or all "
            f"are crowds or difficult (DATASETS.DIFFICULT is {cfg.DATASETS.DIFFICULT})."
        )


def _check_proposal_files(
    key: str, datasets: CfgNode, loaded: Mapping[str, Optional[Records]]
) -> None:
    names, files = datasets[key], datasets[f"PROPOSAL_FILES_{key}"]
    if len(names) != len(files):
        raise InputError(
            f"DATASETS.PROPOSAL_FILES_{key} has {len(files)} files for the {len(names)} datasets "
            f"of DATASETS.{key}. MODEL.LOAD_PROPOSALS needs one for each. Make them with "
            "`ohem-d2 proposals`."
        )
    for name, file in zip(names, files, strict=True):
        remedy = f"Make it: ohem-d2 proposals {name} {file}"
        _check_file(f"DATASETS.PROPOSAL_FILES_{key}", file, remedy)
        records = loaded[name]
        if records is None:
            records = load_records(name)
        try:
            check_proposals(read_proposals(file), records)  # detectron2 runs code in it
        except ValueError as e:
            raise InputError(
                f"DATASETS.PROPOSAL_FILES_{key}: {file} cannot be used with {name}. {e}"
            ) from e


def _check_file(key: str, path: str, remedy: str = "") -> None:
    if not _is_remote(path) and PathManager.isdir(path):
        raise InputError(f"{key} is {path}, which is a folder, not a file.")
    if _is_missing(path):
        raise InputError(f"{key} is {path}, which does not exist. {remedy}".rstrip())


def _is_missing(path: str) -> bool:
    return not _is_remote(path) and not PathManager.exists(path)


def _is_remote(path: str) -> bool:
    # Downloaded later, so not checked.
    return "://" in path
