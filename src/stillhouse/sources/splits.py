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
    rng = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(shares) + 1)]
    for label in np.unique(labels.numpy()):
        rows = rng.permutation(np.flatnonzero(labels.numpy() == label))
        sizes = [max(1, round(share * len(rows))) for share in shares]
        for part, piece in zip(parts, np.split(rows, np.cumsum(sizes)), strict=True):
            part.append(piece)
    return [torch.from_numpy(np.sort(np.concatenate(part))) for part in parts]
