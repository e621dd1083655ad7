"""Naming the code of a codebook that the teacher's features fall on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.errors import StillhouseError
from stillhouse.objectives.divergences import at_least_fp32
from stillhouse.objectives.features import pooled


class Codes(nn.Module):
    """Cross-entropy to the teacher's codes, after Su et al. 2025 (CTSL, arXiv:2507.16612).

    The teacher's features z are given the code k = argmin_j |z - e_j|^2 of a codebook, as in van den Oord et al. 2017
    (VQ-VAE, arXiv:1711.00937), eq. 1; a linear layer on the student's features names it: the value is
    -log softmax(W s + b)_k. The codebook follows the teacher by moving averages (their appendix A.1): with n_j
    features of a batch on code j, summing to m_j,
        N_j <- momentum N_j + (1 - momentum) n_j,  M_j <- momentum M_j + (1 - momentum) m_j,  e_j = M_j / N_j.
    A code that is empty takes one of the first vectors of the batch.

    Args: vectors [B, D], maps [B, D, H, W], which are averaged over positions first, or tokens [B, T, D] in the same
        places, whose values are averaged; `codes` of the book.
    Returns [B]. Raises StillhouseError where the two sides have not the same places.
    Limits: under several processes each has the book of the examples it saw itself.
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, student: Tensor, target: Tensor, *, codes: int = 64, momentum: float = 0.99) -> None:
        super().__init__()
        student, target = pooled(student), pooled(target)
        if student.shape[:-1] != target.shape[:-1]:
            raise StillhouseError(
                f"codes are named place by place; the student's signal has shape {tuple(student.shape)}, the "
                f"teacher's {tuple(target.shape)}: take vectors of both, or tokens in the same places"
            )
        self.name, self.momentum = nn.Linear(student.shape[-1], codes), momentum
        self.register_buffer("sums", torch.zeros(codes, target.shape[-1]))
        self.register_buffer("counts", torch.zeros(codes))

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        student, places = pooled(student), at_least_fp32(pooled(target.detach())).flatten(0, -2)
        if self.training:
            self._fill(places)
        code = self.coded(places)
        if self.training:
            self._follow(places, code)
        scores = at_least_fp32(self.name(student)).flatten(0, -2)
        values = functional.cross_entropy(scores, code, reduction="none")
        return values.view(student.shape[:-1]).flatten(1).mean(1) if student.dim() > 2 else values

    def coded(self, vectors: Tensor) -> Tensor:
        """The number of the nearest code that is not empty, of each vector: [N, D] to [N]."""
        book = self.sums / self.counts.unsqueeze(1)
        distances = torch.cdist(vectors, book.to(vectors.dtype))
        return distances.masked_fill(self.counts == 0, torch.inf).argmin(1)

    def _fill(self, vectors: Tensor) -> None:
        empty = (self.counts == 0).nonzero()[: len(vectors), 0]
        self.sums[empty] = vectors[: len(empty)].to(self.sums.dtype)
        self.counts[empty] = 1.0

    def _follow(self, vectors: Tensor, code: Tensor) -> None:
        there = torch.zeros_like(self.sums).index_add_(0, code, vectors.to(self.sums.dtype))
        self.sums.lerp_(there, 1 - self.momentum)
        self.counts.lerp_(code.bincount(minlength=len(self.counts)).to(self.counts.dtype), 1 - self.momentum)
