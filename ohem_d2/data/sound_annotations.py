"""
Annotations are looked into once, not before each training: what has no error is remembered.
"""

import hashlib
import inspect
from contextlib import suppress
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager
from fvcore.common.file_io import get_cache_dir

from ..utils import InputError, atomic_file
from . import dataset_findings
from .datasets import voc

__all__ = ["check_annotations"]

BLOCK = 2**20  # bytes read at once


def check_annotations(dataset: str, is_evaluated: bool = False) -> int:
    """
    Look into the files of a dataset, unless these very files had no error before.

    Args:
        dataset (str), is_evaluated (bool): see :func:`find_in_files`.

    Returns:
        int: the number of findings that do no harm.

    Raises:
        InputError: for the first error.
    """
    remembered = _remembered_in(dataset, is_evaluated)
    if remembered.exists():
        return int(remembered.read_text())
    harmless = 0
    for finding in dataset_findings.find_in_files(dataset, is_evaluated):
        if finding.is_error:
            raise InputError(finding.text)
        harmless += 1
    with suppress(OSError):  # without it, they are looked into again
        remembered.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(remembered) as file:
            file.write_text(str(harmless))
    return harmless


def _remembered_in(dataset: str, is_evaluated: bool) -> Path:
    """
    Returns:
        Path: a file in detectron2's folder for downloads ($FVCORE_CACHE). It is there if the
        annotations have no error.
    """
    metadata = MetadataCatalog.get(dataset)
    # What else decides: classes, and how it is looked for.
    content = hashlib.sha256(repr((metadata.get("thing_classes"), is_evaluated)).encode())
    files = [inspect.getfile(x) for x in (dataset_findings, voc)]
    with suppress(OSError, InputError):  # what cannot be read is an error, and not remembered
        if voc.is_voc(dataset):
            folder, split = metadata.dirname, metadata.split
            files.append(str(voc.image_set_file(folder, split)))
            image_ids = voc.read_image_set(folder, split)
            files += [str(voc.annotations_file(folder, x)) for x in image_ids]
        elif metadata.get("json_file"):
            files.append(metadata.json_file)
        for path in files:
            with PathManager.open(path, "rb") as file:
                while block := file.read(BLOCK):
                    content.update(block)
                # Where one ends and the next begins counts, too.
                content.update(f" {file.tell()} ".encode())
    return Path(get_cache_dir(), "ohem_d2", "sound_annotations", content.hexdigest())
