"""
Images that cannot be used are found when they are loaded: decoding all of them before a training
would take long.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ..utils import InputError
from .dataset_findings import find_in_image

__all__ = ["BrokenImage", "CatchingMapper", "StoppingLoader", "stop_at_broken_image"]


class BrokenImage(NamedTuple):
    """
    Takes the place of an image in a batch.
    """

    file_name: str
    text: str  # names the file


class CatchingMapper:
    """
    A mapper that returns a :class:`BrokenImage` for an image that cannot be decoded, or that has
    another size than annotated. An error raised in a worker of a DataLoader would reach the user
    with the worker's traceback in its message.
    """

    def __init__(self, mapper: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._mapper = mapper

    def __call__(self, record: dict[str, Any]) -> dict[str, Any] | BrokenImage:
        try:
            return self._mapper(record)
        except Exception:  # a broken image may raise anything
            findings = list(find_in_image(record))
            if not findings:  # the error is another one
                raise
            return BrokenImage(record["file_name"], findings[0].text)


def stop_at_broken_image(batch: Iterable[Any]) -> None:
    """
    Raises:
        InputError: for the first broken image of a batch.
    """
    for x in batch:
        if isinstance(x, BrokenImage):
            raise InputError(
                f"{x.text.rstrip('.')}. Repair it or remove it from the dataset: `ohem-d2 check` "
                "lists all broken images."
            )


class StoppingLoader:
    """
    The batches of a loader with a :class:`CatchingMapper`, up to the first broken image.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for batch in self._loader:
            stop_at_broken_image(batch)
            yield batch
