"""Fixed splits of one labelled set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def by_class(labels: Tensor, shares: Sequence[float], *, seed: int) -> list[Tensor]:
    """Rows of disjoint parts that hold the given shares of every class, and last the rows that are left.

    Args:
        labels: [N] class indices.
        shares: of each part but the last, in (0, 1), together below 1.
        seed: the same seed gives the same parts on every machine.

    Returns one ascending tensor of row numbers a part. Every part gets at least one row of a class
    that has as many rows as there are parts.
    """
    parts: list[list[np.ndarray]] = [[] for _ in range(len(shares) + 1)]
    for rows in _shuffled(labels, seed):
        sizes = [max(1, round(share * len(rows))) for share in shares]
        for part, piece in zip(parts, np.split(rows, np.cumsum(sizes)), strict=True):
            part.append(piece)
    return [torch.from_numpy(np.sort(np.concatenate(part))) for part in parts]


def some_of_each(labels: Tensor, count: int, *, seed: int) -> Tensor:
    """`count` rows, ascending: of each class its share, rounded by largest remainder, and one at least.

    Args:
        labels: [N] class indices.
        count: from the number of classes to N.
        seed: the same seed gives the same rows on every machine.
    """
    classes = _shuffled(labels, seed)
    shares = [count * len(rows) / len(labels) for rows in classes]
    sizes = [max(1, int(share)) for share in shares]
    while sum(sizes) != count:
        step = 1 if sum(sizes) < count else -1
        at = max(range(len(sizes)), key=lambda c: step * (shares[c] - sizes[c]) if sizes[c] + step else -np.inf)
        sizes[at] += step
    return torch.from_numpy(np.sort(np.concatenate([rows[:size] for rows, size in zip(classes, sizes, strict=True)])))


def _shuffled(labels: Tensor, seed: int) -> list[np.ndarray]:
    """The rows of each class, in an order drawn with the seed."""
    rng = np.random.default_rng(seed)
    classes = labels.numpy()
    return [rng.permutation(np.flatnonzero(classes == label)) for label in np.unique(classes)]
