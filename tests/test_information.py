"""MI-alpha and CKA against loops in float64, and what is known of them."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from stillhouse.errors import StillhouseError
from stillhouse.objectives.information import MutualInformation, interpolated_bound
from stillhouse.objectives.relations import centred_alignment

ALPHAS = pytest.mark.parametrize("alpha", [0.0, 0.1, 0.9, 1.0])


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_bound(scores: Tensor, log_q: Tensor, alpha: float) -> list[float]:
    """Poole et al.'s I_alpha in probability space, an expectation at a time."""
    s, count = scores.tolist(), len(scores)
    rows = []
    for i in range(count):
        others = [j for j in range(count) if j != i]

        def b(left_out: int, i: int = i) -> float:
            kept = [math.exp(s[i][k]) for k in range(count) if k != left_out]
            return alpha * statistics.fmean(kept) + (1 - alpha) * math.exp(log_q[i])

        joint = statistics.fmean(math.log(math.exp(s[i][i]) / b(j)) for j in others)
        rows.append(1 + joint - statistics.fmean(math.exp(s[i][j]) / b(i) for j in others))
    return rows


@ALPHAS
@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_bound_is_the_formula(alpha: float, count: int):
    scores, log_q = drawn(count, count, scale=2.0), drawn(count, seed=1)
    found = interpolated_bound(scores, log_q, alpha=alpha)
    assert found.tolist() == pytest.approx(naive_bound(scores, log_q, alpha), rel=1e-10)


@ALPHAS
def test_its_gradient(alpha: float):
    scores, log_q = drawn(5, 5).requires_grad_(), drawn(5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, q: interpolated_bound(s, q, alpha=alpha), (scores, log_q))


def test_alpha_one_is_infonce_with_the_row_left_out():
    """The last two parts cancel, and the baseline plays no part."""
    scores = drawn(6, 6)
    found = interpolated_bound(scores, drawn(6, seed=1), alpha=1.0)
    assert torch.allclose(found, interpolated_bound(scores, drawn(6, seed=2), alpha=1.0))
    left_out = [
        [scores[i, [k for k in range(6) if k != j]].logsumexp(0) - math.log(5) for j in range(6)] for i in range(6)
    ]
    expected = [scores[i, i] - sum(left_out[i][j] for j in range(6) if j != i) / 5 for i in range(6)]
    assert found.tolist() == pytest.approx([float(e) for e in expected])


def test_alpha_zero_is_tuba():
    scores, log_q = drawn(6, 6), drawn(6, seed=1)
    shifted = scores - log_q.unsqueeze(1)
    off = ~torch.eye(6, dtype=torch.bool)
    expected = 1 + shifted.diagonal() - shifted.exp()[off].view(6, 5).mean(1)
    assert torch.allclose(interpolated_bound(scores, log_q, alpha=0.0), expected)


@pytest.mark.parametrize("alpha", [0.1, 0.9, 1.0])
def test_scores_far_apart_stay_finite_and_below_the_ceiling(alpha: float):
    scores = (1e4 * torch.eye(8)).requires_grad_()
    found = interpolated_bound(scores, torch.zeros(8), alpha=alpha)
    found.sum().backward()
    assert found.isfinite().all()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert (interpolated_bound(scores, torch.full((8,), -1e4), alpha=alpha) <= math.log(7 / alpha) + 1 + 1e-4).all()


def test_the_bound_lies_near_the_true_information_of_gaussians():
    """Two Gaussians correlated by rho have -log(1 - rho^2) / 2 nats; the best critic is the log density ratio."""
    rho, count = 0.9, 512
    x, noise = drawn(count, seed=3), drawn(count, seed=4)
    y = rho * x + math.sqrt(1 - rho**2) * noise
    grid_y, grid_x = y.unsqueeze(1), x.unsqueeze(0)
    spread = 1 - rho**2
    log_ratio = -0.5 * math.log(spread) - (grid_x - rho * grid_y) ** 2 / (2 * spread) + grid_x**2 / 2
    truth = -0.5 * math.log(spread)
    for alpha in (0.0, 0.5, 1.0):
        bound = interpolated_bound(log_ratio, torch.zeros(count, dtype=torch.float64), alpha=alpha).mean().item()
        assert bound == pytest.approx(truth, abs=0.15), alpha


def test_the_term_learns_which_student_belongs_to_which_teacher():
    torch.manual_seed(0)
    teacher = torch.randn(32, 4, 2, 2)
    student = (teacher.flatten(1) @ torch.randn(16, 6)).requires_grad_()
    term = MutualInformation(student, teacher, alpha=0.9, hidden=64)
    optimizer = torch.optim.Adam(term.parameters(), 3e-3)
    first = term(student, teacher)
    assert first.shape == (32,)
    assert abs(first.mean().item()) < 0.5, "an untrained critic knows of no information"
    for _ in range(60):
        optimizer.zero_grad()
        term(student, teacher).mean().backward()
        optimizer.step()
    assert term(student, teacher).mean() < -1.5
    assert term(student[torch.randperm(32)], teacher).mean() > 0, "shuffled pairs share nothing"
    assert student.grad is not None
    with pytest.raises(StillhouseError, match="batch has one"):
        term(student[:1], teacher[:1])


def naive_cka(student: Tensor, teacher: Tensor) -> float:
    """Kornblith et al., eq. 3, with the centring matrix written out."""
    count = len(student)
    centre = torch.eye(count, dtype=torch.float64) - 1 / count
    grams = [centre @ (x.flatten(1) @ x.flatten(1).T) @ centre for x in (student, teacher)]
    hsic = [torch.trace(a @ b).item() for a, b in ((grams[0], grams[1]), (grams[0], grams[0]), (grams[1], grams[1]))]
    return hsic[0] / math.sqrt(hsic[1] * hsic[2])


def test_cka_is_the_formula_and_its_gradient():
    student, teacher = drawn(7, 3, 2).requires_grad_(), drawn(7, 5, seed=1)
    found = centred_alignment(student, teacher)
    assert found.shape == (7,)
    assert found.mean().item() == pytest.approx(1 - naive_cka(student.detach(), teacher))
    assert torch.autograd.gradcheck(lambda s: centred_alignment(s, teacher), (student,))


def test_cka_sees_neither_rotation_nor_scale_nor_shift():
    teacher = drawn(9, 4)
    turned = 3.0 * teacher @ torch.linalg.qr(drawn(4, 4, seed=2)).Q + 5.0
    assert centred_alignment(turned, teacher).mean().item() == pytest.approx(0, abs=1e-9)
    assert centred_alignment(drawn(9, 4, seed=5), teacher).mean().item() > 0.2
    flat = torch.ones(9, 4, dtype=torch.float64, requires_grad=True)
    value = centred_alignment(flat, teacher)
    value.sum().backward()
    assert value.tolist() == [1.0] * 9
    assert flat.grad is not None
    assert not flat.grad.any()
