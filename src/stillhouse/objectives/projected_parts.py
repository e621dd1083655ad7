"""Losses between features through projectors of their own: V_kD, projector ensembles, ladders.

Built and called as those of `stillhouse.objectives.feature_parts`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import orthogonal

from stillhouse.objectives.features import Sides, both, many, pooled, standardised, whitened
from stillhouse.objectives.projectors import perceptron


class OrthogonalProjection(nn.Module):
    """V_kD: an orthogonal projector and standardised targets, Miles et al. 2024 (CVPR, arXiv:2403.06213), section 3.

    The student's features go through a matrix with orthonormal rows (or columns, where the teacher is wider), kept
    so by a matrix exponential of a skew-symmetric one; smooth L1, averaged, to the teacher's features standardised
    over their channels or, for generative tasks, whitened over the batch. Maps are averaged over positions first, as
    in the code.

    Args: vectors [B, ..., D] or maps [B, C, H, W]; targets: "standardised" or "whitened".
    """

    def __init__(self, student: Tensor, target: Tensor, *, targets: str = "standardised") -> None:
        super().__init__()
        self.normalise = {"standardised": standardised, "whitened": whitened}[targets]
        width, wide = pooled(student).shape[-1], pooled(target).shape[-1]
        self.project = orthogonal(nn.Linear(width, wide, bias=False), orthogonal_map="matrix_exp")

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        ours, theirs = both(self.project(pooled(student)), pooled(target))
        return functional.smooth_l1_loss(ours, self.normalise(theirs), reduction="none").flatten(1).mean(1)


class ProjectorEnsemble(nn.Module):
    """The mean of several projectors, Chen et al. 2022 (NeurIPS, arXiv:2210.15274).

    1 - cos between the teacher's features and the mean of `projectors` times relu(W s + b), each started at random.
    Maps are averaged over positions first. The paper uses three, on the features before the classifier.
    """

    def __init__(self, student: Tensor, target: Tensor, *, projectors: int = 3) -> None:
        super().__init__()
        width, wide = pooled(student).shape[-1], pooled(target).shape[-1]
        self.projectors = nn.ModuleList(nn.Linear(width, wide) for _ in range(projectors))

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        ours = pooled(student)
        mean = torch.stack([functional.relu(project(ours)) for project in self.projectors]).mean(0)
        ours, theirs = both(mean, pooled(target))
        values = 1 - functional.cosine_similarity(ours, theirs, dim=-1)
        return values.flatten(1).mean(1) if values.dim() > 1 else values


class LadderProjector(nn.Module):
    """UNIC: one target from several depths, Sariyildiz et al. 2024 (ECCV, arXiv:2408.05088), section 3.2.

    A perceptron (linear, GELU, linear) for each tapped layer of the student, summed, is held to the teacher's
    features by (1 - cos) / 2 + smooth L1 / 2. The teacher's features are moved to mean 0 and variance 1 by channel,
    by an average of their statistics that follows training with `momentum`.

    Args: student, a list of features of any widths; target, the teacher's. Maps are averaged over positions.
    """

    mean: Tensor
    variance: Tensor
    seen: Tensor

    def __init__(self, student: Sides, target: Tensor, *, hidden: int = 768, momentum: float = 0.01) -> None:
        super().__init__()
        wide = pooled(target).shape[-1]
        self.rungs = nn.ModuleList(perceptron(pooled(own).shape[-1], hidden, wide, nn.GELU()) for own in many(student))
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(wide))
        self.register_buffer("variance", torch.ones(wide))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, student: Sides, target: Tensor) -> Tensor:
        climbed = torch.stack([rung(pooled(own)) for rung, own in zip(self.rungs, many(student), strict=True)]).sum(0)
        ours, theirs = both(climbed, pooled(target))
        if self.training:
            self._see(theirs)
        theirs = (theirs - self.mean) / (self.variance + 1e-6).sqrt()
        apart = 1 - functional.cosine_similarity(ours, theirs, dim=-1)
        values = (apart + functional.smooth_l1_loss(ours, theirs, reduction="none").mean(-1)) / 2
        return values.flatten(1).mean(1) if values.dim() > 1 else values

    def _see(self, theirs: Tensor) -> None:
        """The first batch sets the statistics, later ones move them."""
        variance, mean = torch.var_mean(theirs.flatten(0, -2), 0, correction=0)
        share = torch.where(self.seen == 0, 1.0, self.momentum)
        self.mean += share * (mean - self.mean)
        self.variance += share * (variance - self.variance)
        self.seen += 1
