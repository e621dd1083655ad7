"""The denoiser's preconditioning, and samplers against equations whose solution is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stillhouse.engine.contracts import Facts
from stillhouse.networks.denoiser import Denoiser, coefficients
from stillhouse.networks.kinds import Denoiser as DenoiserKind
from stillhouse.networks.kinds import Heun as HeunKind
from stillhouse.networks.kinds import OneStep as OneStepKind
from stillhouse.networks.samplers import Heun, OneStep, noise_levels

FACTS = Facts(task="classification", shape=(1, 4, 4), classes=3)
MEAN, SPREAD = 0.3, 0.6


class Gaussian:
    """The optimal denoiser of data N(MEAN, SPREAD^2), which counts its calls."""

    def __init__(self) -> None:
        self.levels: list[float] = []

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        assert sigma.shape == labels.shape == x.shape[:1]
        self.levels.append(sigma[0].item())
        share = SPREAD**2 / (SPREAD**2 + sigma**2)
        return MEAN + share.view(-1, 1) * (x - MEAN)


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(DenoiserKind(width=16, blocks=2, sigma_data=0.7), FACTS)


def labels(count: int) -> Tensor:
    return torch.arange(count) % FACTS.classes


def test_coefficients_make_input_and_target_of_variance_one():
    sigma = torch.tensor([0.002, 0.05, 0.7, 5.0, 80.0], dtype=torch.float64)
    skip, out, inside, told = coefficients(sigma, 0.7)
    seen = sigma**2 + 0.7**2  # the variance of x + sigma eps
    target = ((1 - skip) ** 2 * 0.7**2 + skip**2 * sigma**2) / out**2  # of (x - skip (x + sigma eps)) / out
    assert torch.allclose(inside**2 * seen, torch.ones(5, dtype=torch.float64))
    assert torch.allclose(target, torch.ones(5, dtype=torch.float64))
    assert torch.allclose(told, sigma.log() / 4)


def test_an_untrained_denoiser_is_the_best_linear_guess():
    x, sigma = noise(6, 1, 4, 4), torch.tensor([0.01, 0.1, 0.5, 1.0, 10.0, 80.0])
    best = (0.7**2 / (0.7**2 + sigma**2)).view(-1, 1, 1, 1) * x
    assert torch.allclose(denoiser()(x, sigma, labels(6)), best, atol=1e-6)


def test_a_denoiser_reads_image_noise_level_and_class():
    network = denoiser()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    x, sigma = noise(2, 1, 4, 4), torch.full((2,), 0.5)

    def inner(sigma: Tensor, classes: Tensor, x: Tensor = x) -> Tensor:  # F, freed of skip and scales
        skip, out, _, _ = coefficients(sigma.view(-1, 1, 1, 1), 0.7)
        return (network(x, sigma, classes) - skip * x) / out

    plain = inner(sigma, labels(2))
    assert not torch.allclose(plain, inner(sigma, labels(2) + 1), atol=1e-3)
    assert not torch.allclose(plain, inner(2 * sigma, labels(2)), atol=1e-3)
    assert not torch.allclose(plain, inner(sigma, labels(2), x + 1), atol=1e-3)
    assert torch.allclose(plain[1:], inner(sigma[1:], labels(2)[1:], x[1:]), atol=1e-5), "examples must not mix"


def test_every_parameter_of_a_denoiser_learns():
    network = denoiser()
    with torch.no_grad():  # blocks and output start at zero, which holds back the gradients before them
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    network(noise(9, 1, 4, 4), torch.full((9,), 0.5), labels(9)).square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_noise_levels_run_from_most_to_least():
    levels = noise_levels(torch.linspace(0, 1, 18, dtype=torch.float64), 0.002, 80.0)
    assert levels[0].item() == pytest.approx(80.0)
    assert levels[-1].item() == pytest.approx(0.002)
    assert (levels.diff() < 0).all()
    middle = noise_levels(torch.tensor(0.5, dtype=torch.float64), 0.002, 80.0)
    assert middle.item() == pytest.approx(((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7)


def test_heun_calls_the_network_at_the_published_levels():
    network = Gaussian()
    sampler = Heun(HeunKind(steps=18), network)
    sampler(noise(3, 2), labels(3))
    assert len(network.levels) == sampler.calls == 35
    assert network.levels[0] == pytest.approx(80.0)
    assert network.levels[-1] == pytest.approx(0.002)


def test_heun_converges_at_second_order_to_the_solution_of_the_flow():
    """For Gaussian data x - MEAN shrinks in proportion to the standard deviation of what is noised."""
    start = noise(64, 1, dtype=torch.float64)
    exact = MEAN + (80 * start - MEAN) * SPREAD / (SPREAD**2 + 80**2) ** 0.5

    def error(steps: int) -> float:
        kind = HeunKind(steps=steps, sigma_min=1e-4)
        return (Heun(kind, Gaussian())(start, labels(64)) - exact).abs().max().item()

    coarse, middle, fine = error(20), error(40), error(80)
    assert coarse / middle == pytest.approx(4, rel=0.3)
    assert middle / fine == pytest.approx(4, rel=0.3)
    assert fine < 1e-2


def test_one_heun_step_is_the_denoisers_answer_to_pure_noise():
    start = noise(5, 2)
    once = Heun(HeunKind(steps=1), Gaussian())(start, labels(5))
    assert torch.allclose(once, Gaussian()(80 * start, torch.full((5,), 80.0), labels(5)), atol=1e-5)


def test_heun_keeps_the_type_of_its_noise():
    assert Heun(HeunKind(steps=3), Gaussian())(noise(2, 2), labels(2)).dtype == torch.float32


def test_one_step_is_one_call_and_differentiable():
    network = denoiser()
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    sampler = OneStep(OneStepKind(sigma=2.5), network)
    start = noise(4, 1, 4, 4)
    samples = sampler(start, labels(4))
    assert len(calls) == sampler.calls == 1
    assert torch.equal(samples, network(2.5 * start, torch.full((4,), 2.5), labels(4)))
    samples.sum().backward()
    assert network.leave.weight.grad is not None
    assert network.leave.weight.grad.any()
