"""From noise to samples: what calls a denoiser, how often, and at which noise levels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stillhouse.networks.kinds import Heun as HeunKind
from stillhouse.networks.kinds import OneStep as OneStepKind

Denoise = Callable[..., Tensor]
"""(x [B, ...], sigma [B], labels [B], and by name what else a denoiser is shown) -> the clean x expected, [B, ...]."""


class OneStep:
    """G(z, y) = D(sigma z, sigma, y): one network call. Differentiable in the denoiser's weights."""

    calls = 1

    def __init__(self, kind: OneStepKind, denoiser: Denoise) -> None:
        self.sigma, self.denoiser = kind.sigma, denoiser

    def __call__(self, noise: Tensor, labels: Tensor, rng: torch.Generator | None = None, **shown: Tensor) -> Tensor:
        """Args: noise ~ N(0, I) [B, ...]; labels [B]; rng is not drawn from; shown to the denoiser at every call.

        Returns samples of noise's shape.
        """
        return self.denoiser(self.sigma * noise, noise.new_full((len(noise),), self.sigma), labels, **shown)


class Heun:
    """Algorithm 1 of Karras et al. 2022 (arXiv:2206.00364): dx/dsigma = (x - D(x, sigma)) / sigma by Heun's rule.

    From sigma_max down to sigma_min in `steps` noise levels and then to 0, the last step by Euler's rule.
    The state is float64, as in the authors' sampler; the denoiser sees the noise's own precision.
    """

    def __init__(self, kind: HeunKind, denoiser: Denoise) -> None:
        self.calls = 2 * kind.steps - 1
        self.denoiser = denoiser
        shares = torch.linspace(0, 1, kind.steps, dtype=torch.float64)
        self.levels = [*noise_levels(shares, kind.sigma_min, kind.sigma_max).tolist(), 0.0]

    def __call__(self, noise: Tensor, labels: Tensor, rng: torch.Generator | None = None, **shown: Tensor) -> Tensor:
        """Args: noise ~ N(0, I) [B, ...]; labels [B]; rng is not drawn from; shown to the denoiser at every call.

        Returns samples of noise's shape.
        """
        x = noise.double() * self.levels[0]
        for now, then in zip(self.levels, self.levels[1:], strict=False):
            slope = self._slope(x, now, noise, labels, shown)
            ahead = x + (then - now) * slope
            if then > 0:
                slope = (slope + self._slope(ahead, then, noise, labels, shown)) / 2
                ahead = x + (then - now) * slope
            x = ahead
        return x.to(noise.dtype)

    def _slope(self, x: Tensor, sigma: float, noise: Tensor, labels: Tensor, shown: dict[str, Tensor]) -> Tensor:
        denoised = self.denoiser(x.to(noise.dtype), noise.new_full((len(noise),), sigma), labels, **shown)
        return (x - denoised.double()) / sigma


def noise_levels(shares: Tensor, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Noise levels by how much of the way down is done: eq. 5 of Karras et al. 2022 (arXiv:2206.00364).

    (sigma_max^(1/rho) + share (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, share 0 being sigma_max and 1 sigma_min.
    """
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (top + shares * (bottom - top)) ** rho
