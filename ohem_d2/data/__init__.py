from . import datasets  # noqa: F401  (registers them)
from .build import (
    build_annotated_loader,
    build_test_loader,
    build_train_loader,
    get_annotated_dicts,
)
from .dataset_mapper import IgnoreRegionsMapper
from .difficult import handle_difficult_objects

__all__ = [
    "IgnoreRegionsMapper",
    "build_annotated_loader",
    "build_test_loader",
    "build_train_loader",
    "get_annotated_dicts",
    "handle_difficult_objects",
]
