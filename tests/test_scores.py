"""Losses of denoisers and of distribution matching, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stillhouse.networks.denoiser import coefficients
from stillhouse.objectives.scores import denoising, distribution_matching, teacher_distance_weight


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_denoising_is_the_weighted_squared_error_by_hand():
    values = denoising(torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.tensor([[0.0, 1.0], [2.0, 2.0]]),
                       torch.tensor([2.0, 0.1]), sigma_data=0.5)  # fmt: skip
    # mean of squares (1 + 4) / 2, times (4 + 0.25) / (2 * 0.5)^2; the second is perfect
    assert values.tolist() == pytest.approx([2.5 * 4.25, 0.0])


def test_denoising_fits_the_bare_network_with_weight_one_at_every_noise_level():
    x, network = random(5, 3, seed=0, dtype=torch.float64), random(5, 3, seed=1, dtype=torch.float64)
    sigma = torch.tensor([0.002, 0.1, 1.0, 7.0, 80.0], dtype=torch.float64)
    seen = x + sigma[:, None] * random(5, 3, seed=2, dtype=torch.float64)
    skip, out, _, _ = coefficients(sigma[:, None], 0.75)
    expected = (network - (x - skip * seen) / out).square().mean(1)
    assert torch.allclose(denoising(skip * seen + out * network, x, sigma, sigma_data=0.75), expected, rtol=1e-9)


def test_denoising_computes_coarse_types_in_fp32_and_keeps_the_gradient_for_the_denoiser():
    denoised = random(2, 3, 4, seed=0, dtype=torch.bfloat16).requires_grad_()
    clean = random(2, 3, 4, seed=1).requires_grad_()
    loss = denoising(denoised, clean, torch.ones(2), sigma_data=0.5)
    assert loss.dtype == torch.float32
    assert loss.shape == (2,)
    loss.sum().backward()
    assert denoised.grad is not None
    assert clean.grad is None


def test_distribution_matching_hands_its_correction_to_the_samples_alone():
    samples, real, fake = (random(2, 1, 2, 3, seed=s).requires_grad_() for s in (0, 1, 2))
    weight = torch.tensor([2.0, 0.5])
    distribution_matching(samples, real, fake, weight).sum().backward()
    assert samples.grad is not None
    expected = weight.view(2, 1, 1, 1) * (fake - real) / 6
    assert torch.allclose(samples.grad, expected, rtol=1e-4, atol=1e-6)
    assert real.grad is None
    assert fake.grad is None


def test_distribution_matching_is_zero_where_both_denoisers_agree():
    samples, both = random(4, 3, seed=0), random(4, 3, seed=1)
    assert distribution_matching(samples, both, both, torch.ones(4)).abs().max() < 1e-12


@pytest.mark.parametrize("sigma", [0.05, 0.6, 3.0])
def test_gradient_is_that_of_the_kl_divergence_between_noised_gaussians(sigma: float):
    """A Gaussian generator and Gaussian data: both optimal denoisers and the divergence are known."""
    mean, spread = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, 0.4))
    data_mean, data_spread = -0.2, 0.9
    z, eps, density = quadrature(12)

    x = (mean + spread * z)[:, None]
    x_t = x.detach() + sigma * eps[:, None]
    real = gaussian_denoiser(x_t, sigma, data_mean, data_spread)
    fake = gaussian_denoiser(x_t, sigma, mean.item(), spread.item())
    loss = distribution_matching(x, real, fake, torch.full_like(z, sigma**-2))
    found = torch.autograd.grad((density * loss).sum(), (mean, spread))

    q, p = spread**2 + sigma**2, data_spread**2 + sigma**2
    kl = 0.5 * (q / p + (mean - data_mean) ** 2 / p - 1 - (q / p).log())
    expected = torch.autograd.grad(kl, (mean, spread))
    assert [g.item() for g in found] == pytest.approx([g.item() for g in expected], rel=1e-9)


def quadrature(points: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of standard normal values and their weights: means of polynomials are exact (Gauss-Hermite)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    weights = weights / weights.sum()
    z, eps = np.meshgrid(nodes, nodes)
    return (
        torch.from_numpy(z.ravel()),
        torch.from_numpy(eps.ravel()),
        torch.from_numpy(np.outer(weights, weights).ravel()),
    )


def gaussian_denoiser(x_t: Tensor, sigma: float, mean: float, spread: float) -> Tensor:
    """E[x | x + sigma eps = x_t] for x ~ N(mean, spread^2)."""
    return mean + spread**2 / (spread**2 + sigma**2) * (x_t - mean)


def test_weight_is_one_over_the_teachers_mean_change():
    samples = torch.tensor([[1.0, -1.0], [0.0, 0.0]], requires_grad=True)
    weight = teacher_distance_weight(samples, torch.tensor([[2.0, 2.0], [0.0, 0.0]]))
    assert weight[0].item() == pytest.approx(1 / 2)
    assert torch.isfinite(weight[1])
    assert not weight.requires_grad
