"""
The images of a training, in an order that a resumed training continues.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from ..utils.seeds import seeded
from .broken_images import stop_at_broken_image

__all__ = ["ResumableLoader"]


class ResumableLoader:
    """
    Endless batches, as :func:`build_detection_train_loader` makes them. They depend on the seed
    and on their number alone: which images a batch has, and how these are augmented.

    Attributes:
        seed (int): at least 0, the same in all processes.
        start (int): the batch to begin with. Both can be set until the first batch is taken.
    """

    def __init__(
        self,
        records: list[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], Any],
        make_sampler: Callable[..., Iterable[int]],
        batch_size: int,
        aspect_ratio_grouping: bool,
        num_workers: int,
        seed: int,
    ) -> None:
        """
        Args:
            records (list[dict]): in detectron2's dataset format.
            mapper (Callable): makes the input of the model from a record, or a
                :class:`BrokenImage`.
            make_sampler (Callable): makes an endless sampler of this process, with the keyword
                argument `seed`.
            batch_size (int): of this process.
            aspect_ratio_grouping (bool): whether the images of a batch are all wider than high, or
                none is.
            num_workers (int): processes that load images. 0: this one.
        """
        self.seed, self.start = seed, 0
        self._make_sampler = make_sampler
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._mapper = mapper
        # Of the group of each image.
        self._groups = [aspect_ratio_grouping and x["width"] > x["height"] for x in records]
        self._records = DatasetFromList(records, copy=False)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        # The first next() runs this, so that a trainer may be built before it is resumed.
        loader = DataLoader(
            _SeededDataset(self._records, self._mapper, self.seed, comm.get_rank()),
            batch_size=None,  # image by image, as in detectron2: fewer wait in memory
            sampler=_From(self._order, self.start * self._batch_size),
            num_workers=self._num_workers,
            collate_fn=_same,
            generator=torch.Generator(),  # otherwise it takes a number of the global one
        )
        images = iter(loader)
        while True:
            batch = list(islice(images, self._batch_size))
            stop_at_broken_image(batch)
            yield batch

    def _order(self) -> Iterator[int]:
        """
        Returns:
            the images of the first batch, of the second, and so on: for each, its number in the
            sampler's stream, times the number of records, plus its index.
        """
        waiting: dict[bool, list[int]] = {False: [], True: []}
        for number, index in enumerate(self._make_sampler(seed=self.seed)):
            batch = waiting[self._groups[index]]
            batch.append(number * len(self._groups) + index)
            if len(batch) == self._batch_size:
                yield from batch
                batch.clear()


class _From:
    """
    An iterable without its first items.
    """

    def __init__(self, make: Callable[[], Iterator[int]], start: int) -> None:
        self._make, self._start = make, start

    def __iter__(self) -> Iterator[int]:
        return islice(self._make(), self._start, None)


class _SeededDataset(Dataset):
    """
    Images by what :meth:`ResumableLoader._order` makes.
    """

    def __init__(
        self, records: Sequence[dict[str, Any]], mapper: Callable[..., Any], *seed: int
    ) -> None:
        self._records, self._mapper, self._seed = records, mapper, seed

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, item: int) -> Any:
        number, index = divmod(item, len(self._records))
        with seeded(*self._seed, number):
            return self._mapper(self._records[index])


def _same(value: Any) -> Any:
    return value
