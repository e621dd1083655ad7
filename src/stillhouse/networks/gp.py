"""Gaussian processes as networks: what they answer is an expansion over the points they were fitted to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Facts, Signals
from stillhouse.networks.kinds import GaussianProcess as Kind


class Process(NamedTuple):
    """A Gaussian process over functions: mean k(x, X) w and covariance k(x, x') - k(x, X) S k(X, x')."""

    points: Tensor
    """X, [P, D]."""
    weights: Tensor
    """w, [P, 1]."""
    shrink: Tensor
    """S, [P, P]: zero in a prior with the kernel's own covariance."""


class GaussianProcess(nn.Module):
    """A Gaussian process with a squared-exponential kernel, in float64.

    Input [B, D]; `logits` [B, 1] is the mean and `variance` [B] the variance of the function there, without noise.
    There is room for `points` points; those not yet in use have no weight.
    """

    points: Tensor
    shrink: Tensor

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        self.lengthscale, self.amplitude, self.noise = kind.lengthscale, kind.amplitude, kind.noise
        self.register_buffer("points", torch.zeros(kind.points, facts.shape[0], dtype=torch.float64))
        self.register_buffer("shrink", torch.zeros(kind.points, kind.points, dtype=torch.float64))
        self.weights = nn.Parameter(torch.zeros(kind.points, 1, dtype=torch.float64))

    def forward(self, features: Tensor) -> Signals:
        near = self.kernel(features.double(), self.points)  # [B, P]
        variance = self.amplitude**2 - ((near @ self.shrink) * near).sum(1)
        return {"logits": near @ self.weights, "variance": variance.clamp(min=0)}

    def kernel(self, left: Tensor, right: Tensor) -> Tensor:
        """amplitude^2 exp(-|x - x'|^2 / (2 lengthscale^2)): [A, D], [B, D] -> [A, B]."""
        distance = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
        return self.amplitude**2 * (-0.5 * (distance / self.lengthscale).square()).exp()

    def process(self) -> Process:
        """The process it stands for, without the points that are not in use."""
        used = (self.shrink.abs().sum(1) > 0) | (self.weights.squeeze(1) != 0)
        return Process(self.points[used], self.weights.detach()[used], self.shrink[used][:, used])

    def prior(self) -> Process:
        """Its kernel alone: mean zero, no point."""
        return Process(self.points[:0], self.weights.detach()[:0], self.shrink[:0, :0])

    def posterior(self, prior: Process, points: Tensor, values: Tensor, noise: float) -> Process:
        """What is known after `values` [N, 1] were seen at `points` [N, D] with a variance of `noise` each.

        With C the prior's covariance at the points, G = (C + noise I)^-1 and r what the prior's mean misses, the mean
        gains c(x, X) G r and the covariance loses c(x, X) G c(X, x') (Rasmussen & Williams 2006, section 2.7).
        """
        shared = prior.shrink @ self.kernel(prior.points, points)  # [P, N]
        across = self.kernel(points, prior.points)  # [N, P]
        covariance = self.kernel(points, points) - across @ shared
        gain = torch.linalg.inv(covariance + noise * torch.eye(len(points), dtype=covariance.dtype))
        step = gain @ (values - across @ prior.weights)  # [N, 1]
        mixed = -shared @ gain
        return Process(
            torch.cat([prior.points, points]),
            torch.cat([prior.weights - shared @ step, step]),
            torch.cat([torch.cat([prior.shrink - mixed @ shared.T, mixed], 1), torch.cat([mixed.T, gain], 1)]),
        )
