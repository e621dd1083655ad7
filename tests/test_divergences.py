"""Divergences against closed forms and against a naive computation in float64 on probabilities."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from stillhouse.errors import StillhouseError
from stillhouse.objectives.divergences import (
    cross_entropy,
    forward_kl,
    generalised_jsd,
    mse,
    reverse_kl,
    sparse_forward_kl,
)

INF = math.inf
PAIRED: dict[str, Callable[..., Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd 0.5": partial(generalised_jsd, beta=0.5),
    "jsd 0.1": partial(generalised_jsd, beta=0.1),
    "jsd 0.9": partial(generalised_jsd, beta=0.9),
}
paired = pytest.mark.parametrize("name", PAIRED)


def logits(*shape: int, seed: int, scale: float = 3.0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def probabilities(x: Tensor, temperature: float = 1.0) -> list[list[float]]:
    """Softmax by its definition, row by row, in Python's floats."""
    rows = []
    for row in x.double().reshape(-1, x.shape[-1]).tolist():
        weights = [math.exp(v / temperature) for v in row]
        rows.append([w / sum(weights) for w in weights])
    return rows


def naive_kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def naive_jsd(p: list[float], q: list[float], beta: float) -> float:
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return beta * naive_kl(p, m) + (1 - beta) * naive_kl(q, m)


def naive(name: str, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    values = []
    for q, p in zip(probabilities(student, temperature), probabilities(teacher, temperature), strict=True):
        if name == "forward_kl":
            value = naive_kl(p, q)
        elif name == "reverse_kl":
            value = naive_kl(q, p)
        else:
            value = naive_jsd(p, q, float(name.split()[1]))
        values.append(temperature**2 * value)
    return torch.tensor(values, dtype=torch.float64).reshape(student.shape[:-1])


def test_two_classes_by_hand() -> None:
    teacher = torch.tensor([math.log(0.75), math.log(0.25)])
    student = torch.tensor([0.0, 0.0])
    assert forward_kl(student, teacher).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)
    assert reverse_kl(student, teacher).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), rel=1e-6)
    # M = (0.65, 0.35) for beta = 0.6: the teacher's weight is beta, not 1 - beta.
    by_hand = 0.6 * (0.75 * math.log(0.75 / 0.65) + 0.25 * math.log(0.25 / 0.35))
    by_hand += 0.4 * (0.5 * math.log(0.5 / 0.65) + 0.5 * math.log(0.5 / 0.35))
    assert generalised_jsd(student, teacher, beta=0.6).item() == pytest.approx(by_hand, rel=1e-5)
    assert cross_entropy(student, torch.tensor(0)).item() == pytest.approx(math.log(2), rel=1e-6)


@paired
@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_equals_the_naive_computation(name: str, temperature: float) -> None:
    student, teacher = logits(3, 2, 7, seed=1), logits(3, 2, 7, seed=2)
    expected = naive(name, student, teacher, temperature)
    assert expected.min() > 1e-3
    value = PAIRED[name](student, teacher, temperature=temperature)
    assert value.shape == (3, 2)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


@paired
def test_identical_inputs_give_zero_and_no_gradient(name: str) -> None:
    same = logits(5, 11, seed=3)
    student = same.clone().requires_grad_()
    value = PAIRED[name](student, same, temperature=2.0)
    torch.testing.assert_close(value, torch.zeros(5), rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    torch.testing.assert_close(gradient, torch.zeros_like(same), rtol=0, atol=1e-6)


@paired
def test_a_shift_of_the_logits_changes_nothing(name: str) -> None:
    student, teacher = logits(4, 9, seed=4, dtype=torch.float64), logits(4, 9, seed=5, dtype=torch.float64)
    shift = torch.tensor([[-30.0], [0.0], [5.0], [700.0]], dtype=torch.float64)
    before = PAIRED[name](student, teacher)
    torch.testing.assert_close(PAIRED[name](student + shift, teacher - shift), before, rtol=1e-9, atol=1e-9)


@paired
def test_gradients(name: str) -> None:
    student = logits(2, 5, seed=6, dtype=torch.float64).requires_grad_()
    teacher = logits(2, 5, seed=7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: PAIRED[name](s, teacher, temperature=2.0), (student,))


@paired
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    student, teacher = logits(2, 5, seed=8).requires_grad_(), logits(2, 5, seed=9).requires_grad_()
    PAIRED[name](student, teacher).sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 1e-3
    assert teacher.grad is None


@paired
def test_a_class_both_exclude_adds_nothing(name: str) -> None:
    student, teacher = logits(3, 6, seed=10), logits(3, 6, seed=11)
    barred = torch.full((3, 2), -INF)
    wide = torch.cat([student, barred], -1).requires_grad_()
    narrow = student.clone().requires_grad_()
    value = PAIRED[name](wide, torch.cat([teacher, barred], -1), temperature=3.0)
    expected = PAIRED[name](narrow, teacher, temperature=3.0)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value.sum(), wide)
    (wanted,) = torch.autograd.grad(expected.sum(), narrow)
    torch.testing.assert_close(gradient, torch.cat([wanted, torch.zeros(3, 2)], -1))


def test_a_class_one_side_excludes() -> None:
    student, teacher = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, -INF]])
    assert forward_kl(student, teacher).item() == pytest.approx(math.log(1.5), rel=1e-6)
    assert forward_kl(teacher, student).item() == INF
    assert reverse_kl(student, teacher).item() == INF
    assert reverse_kl(teacher, student).item() == pytest.approx(math.log(1.5), rel=1e-6)
    expected = naive_jsd([0.5, 0.5, 0.0], [1 / 3] * 3, 0.3)
    for ours, theirs, beta in ((student, teacher, 0.3), (teacher, student, 0.7)):
        ours = ours.clone().requires_grad_()
        value = generalised_jsd(ours, theirs, beta=beta)
        assert value.item() == pytest.approx(expected, rel=1e-5)
        assert torch.autograd.grad(value.sum(), ours)[0].isfinite().all()


def test_the_jsd_tends_to_the_scaled_divergences() -> None:
    student, teacher = logits(8, 6, seed=12, dtype=torch.float64), logits(8, 6, seed=13, dtype=torch.float64)
    errors = []
    for beta in (1e-2, 1e-3, 1e-4, 1e-5):
        forward = generalised_jsd(student, teacher, beta=beta) / beta / forward_kl(student, teacher)
        reverse = generalised_jsd(student, teacher, beta=1 - beta) / beta / reverse_kl(student, teacher)
        errors.append(max((forward - 1).abs().max().item(), (reverse - 1).abs().max().item()))
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 0.02


def test_the_jsd_is_bounded_and_mirrored() -> None:
    apart = torch.tensor([[60.0, 0.0]]), torch.tensor([[0.0, 60.0]])
    bound = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert generalised_jsd(*apart, beta=0.2).item() == pytest.approx(bound, rel=1e-6)
    student, teacher = logits(4, 6, seed=14), logits(4, 6, seed=15)
    torch.testing.assert_close(
        generalised_jsd(student, teacher, beta=0.2), generalised_jsd(teacher, student, beta=0.8), rtol=1e-5, atol=1e-6
    )


@paired
def test_the_temperature_keeps_the_size_of_the_gradient(name: str) -> None:
    """Hinton et al. 2015, section 2.1: at high T the gradient tends to that of a squared difference of logits."""
    student, teacher = logits(4, 5, seed=16, dtype=torch.float64), logits(4, 5, seed=17, dtype=torch.float64)
    centred = [x - x.mean(-1, keepdim=True) for x in (student, teacher)]
    limit = 0.5 * (centred[0] - centred[1]).square().mean(-1)
    if name.startswith("jsd"):
        beta = float(name.split()[1])
        limit = beta * (1 - beta) * limit
    torch.testing.assert_close(PAIRED[name](student, teacher, temperature=1e4), limit, rtol=1e-3, atol=1e-6)


@paired
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_fp32(name: str, dtype: torch.dtype) -> None:
    student, teacher = logits(6, 50, seed=18, dtype=dtype), logits(6, 50, seed=19, dtype=dtype)
    value = PAIRED[name](student, teacher, temperature=2.0)
    assert value.dtype == torch.float32
    # The inputs are exact in fp32: only the arithmetic can differ from the oracle.
    torch.testing.assert_close(value.double(), naive(name, student, teacher, 2.0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("function", [*PAIRED.values(), mse, cross_entropy])
def test_shapes_that_differ_are_refused(function: Callable[..., Tensor]) -> None:
    with pytest.raises(StillhouseError, match=r"\(4, 10\).*\(1, 10\)"):
        function(torch.zeros(4, 10), torch.zeros(1, 10))


def test_cross_entropy_of_indices() -> None:
    student, target = logits(3, 4, 7, seed=20), torch.arange(12).reshape(3, 4) % 7
    rows = torch.tensor(probabilities(student), dtype=torch.float64).reshape(3, 4, 7)
    true = -rows.gather(-1, target[..., None]).squeeze(-1).log()
    torch.testing.assert_close(cross_entropy(student, target).double(), true, rtol=1e-5, atol=1e-6)
    smooth = 0.8 * true + 0.2 * -rows.log().mean(-1)
    value = cross_entropy(student, target, label_smoothing=0.2)
    torch.testing.assert_close(value.double(), smooth, rtol=1e-5, atol=1e-6)
    with pytest.raises(StillhouseError, match="one index for each position"):
        cross_entropy(student, target[:, :1])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_of_distributions(smoothing: float) -> None:
    student, teacher = logits(3, 5, seed=21, dtype=torch.float64), logits(3, 5, seed=22, dtype=torch.float64)
    one_hot = torch.eye(5, dtype=torch.float64)[:3]
    torch.testing.assert_close(
        cross_entropy(student, one_hot, label_smoothing=smoothing),
        cross_entropy(student, torch.arange(3), label_smoothing=smoothing),
    )
    p = teacher.softmax(-1)
    entropy = torch.tensor([-sum(a * math.log(a) for a in row) for row in p.tolist()], dtype=torch.float64)
    torch.testing.assert_close(cross_entropy(student, p) - entropy, forward_kl(student, teacher))


def test_cross_entropy_where_there_is_no_label() -> None:
    student = logits(3, 4, seed=23).requires_grad_()
    value = cross_entropy(student, torch.tensor([1, -100, 2]), label_smoothing=0.1)
    value.sum().backward()
    assert value[1] == 0
    assert student.grad is not None
    assert student.grad[1].abs().max() == 0
    assert student.grad[0].abs().max() > 1e-3


def test_mse_by_hand() -> None:
    student = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]])
    torch.testing.assert_close(mse(student, torch.zeros_like(student)), torch.tensor([7.5, 1.0]))
    torch.testing.assert_close(mse(torch.tensor([1.0, -2.0]), torch.zeros(2)), torch.tensor([1.0, 4.0]))
    teacher = torch.ones(2, 3, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: mse(s, teacher.double()), torch.zeros(2, 3).double().requires_grad_())
    assert mse(student.bfloat16(), student.bfloat16()).dtype == torch.float32


def bucketed(student: Tensor, teacher: Tensor, k: int, temperature: float) -> Tensor:
    """KL between the teacher's top k classes and the rest as one class, by the definition."""
    values = []
    for q, p in zip(probabilities(student, temperature), probabilities(teacher, temperature), strict=True):
        top = sorted(range(len(p)), key=lambda v: -p[v])[:k]
        rest = [v for v in range(len(p)) if v not in top]
        buckets = [[v] for v in top] + ([rest] if rest else [])
        sums = [([sum(x[v] for v in bucket) for bucket in buckets]) for x in (p, q)]
        values.append(temperature**2 * naive_kl(*sums))
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_the_sparse_kl_counts_the_tail_as_one_class(k: int, temperature: float) -> None:
    student, teacher = logits(6, 8, seed=24), logits(6, 8, seed=25)
    stored = (teacher / temperature).log_softmax(-1).topk(k)
    value = sparse_forward_kl(student, stored.values, stored.indices, temperature=temperature)
    torch.testing.assert_close(value.double(), bucketed(student, teacher, k, temperature), rtol=1e-4, atol=1e-5)
    assert (value <= forward_kl(student, teacher, temperature=temperature) + 1e-5).all()


def test_the_sparse_kl_at_all_classes_is_the_kl() -> None:
    student, teacher = logits(2, 3, 8, seed=26), logits(2, 3, 8, seed=27)
    stored = teacher.log_softmax(-1).topk(8)
    torch.testing.assert_close(
        sparse_forward_kl(student, stored.values, stored.indices), forward_kl(student, teacher), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("k", [2, 6])
def test_the_gradient_of_the_sparse_kl(k: int) -> None:
    student = logits(2, 6, seed=28, dtype=torch.float64).requires_grad_()
    stored = logits(2, 6, seed=29, dtype=torch.float64).log_softmax(-1).topk(k)
    assert torch.autograd.gradcheck(lambda s: sparse_forward_kl(s, stored.values, stored.indices), (student,))


def test_the_sparse_kl_when_the_top_holds_all_the_mass() -> None:
    """Log-probabilities rounded for storage may add up to a little more than one."""
    teacher = torch.tensor([[0.0, 0.0, -INF, -INF]])
    stored = teacher.log_softmax(-1).topk(2)
    student = logits(1, 4, seed=30).requires_grad_()
    for log_probs in (stored.values, stored.values + 1e-3):
        value = sparse_forward_kl(student, log_probs, stored.indices)
        torch.testing.assert_close(value, forward_kl(student, teacher), rtol=5e-3, atol=5e-3)
        assert torch.autograd.grad(value.sum(), student)[0].isfinite().all()


def test_the_sparse_kl_sees_a_student_that_leaves_no_tail() -> None:
    """The student's tail mass, 1e-13, is lost by 1 - sum(top) in fp32, and must not be."""
    stored = torch.tensor([[math.log(0.9)]]), torch.tensor([[0]])
    value = sparse_forward_kl(torch.tensor([[30.0, 0.0, 0.0]]), *stored)
    tail = 2 * math.exp(-30)
    expected = 0.9 * math.log(0.9) + 0.1 * (math.log(0.1) - math.log(tail))
    assert value.item() == pytest.approx(expected, rel=1e-5)


@paired
def test_second_derivatives(name: str) -> None:
    """Methods that differentiate through an inner loop need them."""
    student = logits(2, 4, seed=31, dtype=torch.float64).requires_grad_()
    teacher = logits(2, 4, seed=32, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda s: PAIRED[name](s, teacher, temperature=2.0), (student,))


@paired
def test_a_student_that_is_not_a_number_is_not_hidden(name: str) -> None:
    student = logits(2, 4, seed=33)
    student[1, 2] = math.nan
    value = PAIRED[name](student, logits(2, 4, seed=34))
    assert value.isnan().tolist() == [False, True]
