"""Scores of binary trees: the best one, the sum over all, the average of several.

A tree is a chart [T, T] of zeros and ones (stillhouse.sources.trees); a sentence's scores are a chart of numbers, and a
tree's score is the sum of those of its spans.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stillhouse.objectives.divergences import at_least_fp32


def inside(scores: Tensor, lengths: Tensor, over: Callable[[Tensor], Tensor]) -> Tensor:
    """CYK (Cocke, Younger, Kasami): each sentence's total over all binary trees.

    Args:
        scores: [B, T, T]; [i, j] of the span from word i to word j, both counted. Of single words none count.
        lengths: [B], words of each sentence.
        over: what becomes of the alternatives [B, splits]: their maximum or the log of their summed exponentials.

    Returns [B].
    """
    size = scores.shape[1]
    chart = {(i, i): torch.zeros_like(scores[:, 0, 0]) for i in range(size)}
    for width in range(1, size):
        for i in range(size - width):
            j = i + width
            splits = torch.stack([chart[i, k] + chart[k + 1, j] for k in range(i, j)], 1)
            chart[i, j] = over(splits) + scores[:, i, j]
    whole = torch.stack([chart[0, j] for j in range(size)], 1)
    return whole.gather(1, (lengths - 1).unsqueeze(1)).squeeze(1)


def best_tree(scores: Tensor, lengths: Tensor) -> Tensor:
    """The tree of the highest score, [B, T, T]: where a maximum's gradient goes is the way it took."""
    with torch.enable_grad():
        own = at_least_fp32(scores).detach().requires_grad_(True)
        (tree,) = torch.autograd.grad(inside(own, lengths, lambda x: x.max(1).values).sum(), own)
    return tree


def average_tree(trees: Tensor, lengths: Tensor) -> Tensor:
    """The tree with the highest mean F1 to several, Shayegh et al. 2024 (ICLR, arXiv:2310.01717), section 2.2.

    Binary trees of a sentence have equally many spans, so that F1 is the number of spans in common over that number,
    and the best tree is that of the highest sum of hit counts. Args: [B, K, T, T]. Returns [B, T, T].
    """
    return best_tree(trees.sum(1), lengths)


def negative_log_likelihood(scores: Tensor, tree: Tensor, lengths: Tensor) -> Tensor:
    """log sum over all trees exp(score) - score(tree), in nats: [B, T, T], [B, T, T] and [B] -> [B]."""
    scores = at_least_fp32(scores)
    return inside(scores, lengths, lambda x: x.logsumexp(1)) - (scores * tree).sum((1, 2))


def bracket_f1(found: Tensor, true: Tensor, lengths: Tensor) -> Tensor:
    """Unlabelled F1 of each sentence, [B], from trees [B, T, T], without the span of the whole sentence.

    Of binary trees, precision and recall are alike. One for sentences of two words, which have no other span.
    """
    counted = torch.ones_like(true)
    counted[torch.arange(len(true)), 0, lengths - 1] = 0
    common, both = (found * true * counted).sum((1, 2)), ((found + true) * counted).sum((1, 2))
    return torch.where(both > 0, 2 * common / both.clamp(min=1), 1.0)
