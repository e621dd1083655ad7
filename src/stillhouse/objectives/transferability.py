"""How well a model's features suit a task, from a few labelled examples and without training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.objectives.divergences import at_least_fp32


def parc(features: Tensor, labels: Tensor) -> float:
    """Pairwise annotation representation comparison, Bolya et al. 2021 (NeurIPS, arXiv:2111.06977), section 4.

    The Spearman correlation, over all pairs of examples, of one minus the Pearson correlation of their features and
    the same of their one-hot labels. The paper's reduction of wide features by principal components is left out.

    Args: features [N, D], brought to mean 0 and deviation 1 by column first, as in its code; labels [N], indices.

    Returns a number in [-1, 1]; 0 where either side does not vary.
    """
    values = at_least_fp32(features).double()
    spread = values.std(0, correction=0)
    values = (values - values.mean(0)) / torch.where(spread > 0, spread, 1)
    one_hot = functional.one_hot(labels, int(labels.max()) + 1).double()
    above = torch.triu_indices(len(labels), len(labels), offset=1)
    ranks = [_ranks((1 - _correlations(x))[above[0], above[1]]) for x in (values, one_hot)]
    return float(_correlations(torch.stack(ranks))[0, 1])


def _correlations(rows: Tensor) -> Tensor:
    """Pearson correlations of all pairs of rows: [N, D] -> [N, N]; zero with a row that does not vary."""
    centred = functional.normalize(rows - rows.mean(1, keepdim=True), dim=1)
    return centred @ centred.T


def _ranks(values: Tensor) -> Tensor:
    """Ranks of [N] numbers, equal ones sharing the mean of theirs; what differs by rounding alone is equal."""
    _, place, counts = np.unique(np.round(values.numpy(), 9), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return torch.from_numpy((last - (counts - 1) / 2)[place])
