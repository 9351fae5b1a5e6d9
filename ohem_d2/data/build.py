"""
Data loaders for training, for images with annotations, and for testing.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm

from ..utils import InputError
from .broken_images import CatchingMapper, StoppingLoader
from .dataset_mapper import IgnoreRegionsMapper
from .difficult import handle_difficult_objects
from .resumable_loader import ResumableLoader

__all__ = [
    "build_annotated_loader",
    "build_test_loader",
    "build_train_loader",
    "get_annotated_dicts",
]


def get_annotated_dicts(
    cfg: CfgNode, dataset_names: Sequence[str], is_train: bool
) -> list[dict[str, Any]]:
    """
    :func:`get_detection_dataset_dicts`, with difficult objects handled by DATASETS.DIFFICULT.

    Args:
        cfg (CfgNode): a detectron2 config with the keys of :func:`add_ohem_config`.
        dataset_names (Sequence[str]): registered datasets, for training or testing.
        is_train (bool): drop the images that detectron2 does not train on: those without objects
            (DATALOADER.FILTER_EMPTY_ANNOTATIONS) or with too few keypoints.

    Returns:
        list[dict]: in detectron2's dataset format, with proposals if MODEL.LOAD_PROPOSALS.
    """
    datasets = cfg.DATASETS
    proposal_files = {
        **dict(zip(datasets.TEST, datasets.PROPOSAL_FILES_TEST, strict=False)),
        **dict(zip(datasets.TRAIN, datasets.PROPOSAL_FILES_TRAIN, strict=False)),
    }
    filter_empty = is_train and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    dataset_dicts = get_detection_dataset_dicts(
        list(dataset_names),
        filter_empty=filter_empty,
        min_keypoints=(
            cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
            if is_train and cfg.MODEL.KEYPOINT_ON
            else 0
        ),
        proposal_files=(
            [proposal_files[name] for name in dataset_names] if cfg.MODEL.LOAD_PROPOSALS else None
        ),
    )
    dataset_dicts = handle_difficult_objects(dataset_dicts, dataset_names, datasets.DIFFICULT)
    # Filter again: an image may have only difficult objects.
    if filter_empty and "annotations" in dataset_dicts[0]:
        dataset_dicts = filter_images_with_only_crowd_annotations(dataset_dicts)
    return dataset_dicts


def build_annotated_loader(
    cfg: CfgNode, dataset_dicts: list[dict[str, Any]], with_broken: bool = False
) -> StoppingLoader | torch.utils.data.DataLoader:
    """
    Load each image once, in order and at test size, with its annotations.

    Args:
        cfg (CfgNode): a detectron2 config.
        dataset_dicts (list[dict]): from :func:`get_annotated_dicts`.
        with_broken (bool): whether a broken image is a :class:`BrokenImage` in its batch. By
            default it raises an InputError.
    """
    resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    # is_train=True keeps the annotations.
    mapper = CatchingMapper(IgnoreRegionsMapper(cfg, is_train=True, augmentations=[resize]))
    loader = build_detection_test_loader(
        dataset_dicts, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    return loader if with_broken else StoppingLoader(loader)


def build_train_loader(cfg: CfgNode) -> ResumableLoader:
    """
    Same as :func:`build_detection_train_loader`, with crowds and difficult objects as ignore
    regions, and in an order that a resumed training continues.

    Args:
        cfg (CfgNode): a detectron2 config with the keys of :func:`add_ohem_config`.

    Raises:
        InputError: if DATALOADER.SAMPLER_TRAIN is unknown.
    """
    dataset_dicts = get_annotated_dicts(cfg, cfg.DATASETS.TRAIN, is_train=True)
    name = cfg.DATALOADER.SAMPLER_TRAIN
    make_sampler: Callable[..., Iterable[int]]
    if name == "TrainingSampler":
        make_sampler = partial(TrainingSampler, len(dataset_dicts))
    elif name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset_dicts, cfg.DATALOADER.REPEAT_THRESHOLD
        )
        make_sampler = partial(RepeatFactorTrainingSampler, factors)
    else:
        raise InputError(
            f"DATALOADER.SAMPLER_TRAIN is {name}. It must be TrainingSampler or "
            "RepeatFactorTrainingSampler."
        )
    world_size = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH % world_size:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, which {world_size} processes "
            "cannot share equally."
        )
    return ResumableLoader(
        dataset_dicts,
        CatchingMapper(IgnoreRegionsMapper(cfg, is_train=True)),
        make_sampler,
        cfg.SOLVER.IMS_PER_BATCH // world_size,
        cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        cfg.DATALOADER.NUM_WORKERS,
        comm.shared_random_seed(),
    )


def build_test_loader(cfg: CfgNode, dataset_name: str) -> StoppingLoader:
    """
    :func:`build_detection_test_loader`, which stops at the first broken image. If
    TEST.AUG.ENABLED, images are not resized: test-time augmentation does that.

    Args:
        cfg (CfgNode): a detectron2 config.
        dataset_name (str): one of DATASETS.TEST.
    """
    not_resized = {"augmentations": ()} if cfg.TEST.AUG.ENABLED else {}
    mapper = CatchingMapper(DatasetMapper(cfg, is_train=False, **not_resized))
    return StoppingLoader(build_detection_test_loader(cfg, dataset_name, mapper=mapper))
