"""Images set side by side in a square: several classes an image."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Data, Source
from stillhouse.errors import StillhouseError
from stillhouse.sources.altered import classified
from stillhouse.sources.altered_kinds import Collage
from stillhouse.sources.derived import Derived


class Collaged(Derived):
    """A `Source` whose images are squares of another's, each square with the classes that are in it.

    Args:
        source: classified images [C, H, W]; where it augments, every image of a square is augmented on its own.
        squares: [N, side, side] its rows.
        classes: how many there are.
        words: what tells this one from others, for the fingerprint.
    """

    def __init__(self, source: Source, squares: Tensor, classes: int, *, words: str) -> None:
        super().__init__(source, words)
        self.squares, self.classes = squares, classes

    def __len__(self) -> int:
        return len(self.squares)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        """`index` [B], `image` [B, C, side H, side W], `labels` [B, classes] of zeros and ones."""
        squares = self.squares[indices]
        seen = self.source.fetch(squares.flatten(), rng)
        image = seen["image"].unflatten(0, squares.shape)  # [B, row, column, C, H, W]
        labels = functional.one_hot(seen["labels"], self.classes).unflatten(0, (len(squares), -1)).amax(1)
        return {"index": indices, "image": image.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3), "labels": labels}


def collage(kind: Collage) -> Data:
    """Squares of classified images: see `Collage`. Raises StillhouseError where examples are no images."""
    data = classified(kind)
    if len(data.facts.shape) != 3:
        raise StillhouseError(f"data of kind 'collage' is made of images, and its origin is of {data.facts.shape}")
    words = kind.model_dump_json(exclude={"of", "train", "validation", "test"})

    def split(number: int, source: Source, count: int) -> Collaged:
        rng = torch.Generator().manual_seed(3 * kind.seed + number)
        squares = torch.randint(len(source), (count, kind.side, kind.side), generator=rng)
        return Collaged(source, squares, data.facts.classes, words=f"{words} {number} {count}")

    channels, height, width = data.facts.shape
    shape = (channels, kind.side * height, kind.side * width)
    return Data(
        split(0, data.train, kind.train),
        split(1, data.validation, kind.validation),
        split(2, data.test, kind.test),
        replace(data.facts, task="multi-label", shape=shape),
    )
