"""Losses of denoisers, and of generators that learn from two of them.

Noise is added as x + sigma eps, eps ~ N(0, I), so that the score of the noised distribution is
(D(x_t, sigma) - x_t) / sigma^2 for its optimal denoiser D(x_t, sigma) = E[x | x_t] (Karras et al.
2022, arXiv:2206.00364, eq. 3). Every function gives one value an example, in at least fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.objectives.divergences import at_least_fp32

SMALLEST = 1e-6
"""Where the teacher changes nothing at all, the weight of distribution matching is taken as if it changed this much."""


def denoising(denoised: Tensor, clean: Tensor, sigma: Tensor, *, sigma_data: float) -> Tensor:
    """The weighted denoising loss of Karras et al. 2022 (arXiv:2206.00364), eq. 2 with lambda of table 1.

    lambda(sigma) mean((D - x)^2), lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2: with the
    paper's preconditioning, the network's own output is fitted with weight 1 at every noise level.

    Args:
        denoised: D(x + sigma eps, sigma), [B, ...]; gradients flow here.
        clean: x, [B, ...].
        sigma: noise levels, [B].
        sigma_data: standard deviation of the data.

    Returns [B].
    """
    error = (at_least_fp32(denoised) - at_least_fp32(clean).detach()).square().flatten(1).mean(1)
    sigma = at_least_fp32(sigma)
    return error * (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def distribution_matching(samples: Tensor, real: Tensor, fake: Tensor, weight: Tensor) -> Tensor:
    """A loss whose gradient is that of a diffused KL divergence (Yin et al. 2024, arXiv:2311.18828, eqs. 3 to 7).

    Let x = G(z), x_t = x + sigma eps, p and q the noised distributions of the data and of the generator.
    As x_t depends on G's weights through x alone, and E[grad log q] over q is zero,

        grad KL(q || p) = E[(score_q(x_t) - score_p(x_t)) dx]
                        = E[(fake - real) / sigma^2 dx],   fake, real = E_q[x | x_t], E_p[x | x_t].

    The scores are constants here: the gradient is handed to x by the pseudo-target x - weight (fake - real),
    held fixed, in half a squared error. With weight 1 / sigma^2 its gradient summed over an example's values is
    the KL's divided by how many values there are.

    Args:
        samples: x, [B, ...]; gradients flow here alone.
        real: the teacher's denoised x_t, [B, ...].
        fake: the critic's denoised x_t, [B, ...].
        weight: [B].

    Returns [B], the mean over an example's values. Only the gradient means something: the value is
    half the squared size of the correction, and is not the divergence.
    """
    samples = at_least_fp32(samples)
    with torch.no_grad():
        step = (at_least_fp32(fake) - at_least_fp32(real)).flatten(1) * weight[:, None]
        target = samples.flatten(1) - step
    return 0.5 * (samples.flatten(1) - target).square().mean(1)


def teacher_distance_weight(samples: Tensor, real: Tensor) -> Tensor:
    """1 / mean |x - real|: one size of correction at every noise level (Yin et al. 2024, arXiv:2311.18828, eq. 8).

    The paper's weight sigma^2 / mean |x - real| multiplies scores; here it multiplies denoised images, which
    carry the sigma^2. Args: [B, ...] both. Returns [B], without gradients.
    """
    with torch.no_grad():
        distance = (at_least_fp32(samples) - at_least_fp32(real)).abs().flatten(1).mean(1)
        return 1 / distance.clamp(min=SMALLEST)
