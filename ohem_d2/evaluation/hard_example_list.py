"""
The hardest examples of a dataset, in a file from which a run that was stopped goes on.
"""

import heapq
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..utils import write_json
from .hard_examples import KINDS, HardExample

__all__ = ["HardExampleList"]


class HardExampleList:
    """
    Of each kind the examples with the largest loss, of the images that were looked at so far. The
    memory does not grow with the number of images.

    Attributes:
        num_images (int): how many were looked at.
    """

    def __init__(
        self, path: str | os.PathLike, description: dict[str, Any], max_per_kind: int
    ) -> None:
        """
        Read what an earlier run has saved, or begin anew.

        Args:
            path (str): a json file, in a folder that exists.
            description (dict): what the examples depend on, which json can hold.
            max_per_kind (int): how many to keep of each of KINDS, 1 or more.

        Raises:
            ValueError: if the file is of another run. It is left as it is.
        """
        self.path = Path(path)
        self.description = {**description, "max_per_kind": max_per_kind}
        self.max_per_kind = max_per_kind
        self.num_images = 0
        # By kind, the loss, by which they are ordered, and a number: of equal ones the first stay.
        self._heaps: dict[str, list[tuple[float, int, HardExample]]] = {x: [] for x in KINDS}
        self._count = 0
        if self.path.exists():
            self._read()

    def add(self, examples: Sequence[HardExample]) -> None:
        """
        Args:
            examples: of the next image.
        """
        self.num_images += 1
        self._insert(examples)

    def hardest(self) -> list[HardExample]:
        """
        Returns:
            list[HardExample]: by kind, and of each kind the hardest first.
        """
        return [x[2] for kind in KINDS for x in sorted(self._heaps[kind], reverse=True)]

    def save(self) -> None:
        """
        Write the file, whole or not at all.
        """
        value = {
            "description": self.description,
            "num_images": self.num_images,
            "fields": HardExample._fields,
            "examples": self.hardest(),
        }
        write_json(self.path, value)

    def _insert(self, examples: Sequence[HardExample]) -> None:
        for example in examples:
            self._count -= 1  # smaller, and so removed before one of the same loss
            item = (example.loss, self._count, example)
            heap = self._heaps[example.kind]
            if len(heap) < self.max_per_kind:
                heapq.heappush(heap, item)
            else:
                heapq.heappushpop(heap, item)

    def _read(self) -> None:
        try:
            saved = json.loads(self.path.read_text())
            theirs, self.num_images = saved["description"], saved["num_images"]
            examples = [HardExample(*x) for x in saved["examples"]]
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise ValueError(
                f"{self.path} is there, and is no list of hard examples that was begun here. Move "
                "it away."
            ) from e
        if theirs != self.description:
            differing = [k for k, v in self.description.items() if theirs.get(k) != v]
            raise ValueError(
                f"{self.path} is there, and is of another run: {', '.join(differing)} differ. Give "
                "another folder, or move it away."
            )
        self._insert(examples)
