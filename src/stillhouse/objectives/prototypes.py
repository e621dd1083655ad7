"""Distributions over prototypes, for self-distillation without labels: DINO, Caron et al. 2021 (arXiv:2104.14294)."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.objectives.divergences import at_least_fp32


def prototype_cross_entropy(scores: Tensor, target: Tensor, *, temperature: float = 0.1) -> Tensor:
    """-sum_k P_k log softmax(scores / temperature)_k: DINO's eqs. 1 and 2, one term.

    Args: the student's scores [..., K]; the teacher's distribution [..., K], which takes no gradient. Returns [...].
    """
    log_q = (at_least_fp32(scores) / temperature).log_softmax(-1)
    return -(target.detach().to(log_q.dtype) * log_q).sum(-1)


class Centre:
    """The running mean of the teacher's scores, taken off them before they are sharpened: DINO, section 3.1 and eq. 4.

    Centring alone would make every target even, sharpening alone would give one prototype everything; the two
    together avoid either collapse.
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.mean: Tensor | None = None

    def targets(self, scores: Tensor, temperature: float) -> Tensor:
        """softmax((scores - mean) / temperature) of the teacher's scores [..., K], and then the mean moves on."""
        scores = at_least_fp32(scores.detach())
        batch = scores.flatten(0, -2).mean(0)
        mean = torch.zeros_like(batch) if self.mean is None else self.mean
        self.mean = self.momentum * mean + (1 - self.momentum) * batch
        return ((scores - mean) / temperature).softmax(-1)
