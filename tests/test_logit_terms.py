"""Losses and gates on logits, each against a computation by the formula in Python's floats, and in a real step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine_runs import recipe as small_recipe
from stillhouse.engine.contracts import Data, Facts
from stillhouse.engine.reduction import gradients
from stillhouse.errors import StillhouseError
from stillhouse.kinds import kinds
from stillhouse.methods.kinds import Match
from stillhouse.objectives import logit_kinds, logit_weights
from stillhouse.objectives import logits as losses
from stillhouse.objectives.divergences import (
    alpha_beta,
    cross_entropy,
    forward_kl,
    l1,
    mse,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    total_variation,
)
from stillhouse.objectives.kinds import CrossEntropy
from stillhouse.objectives.logit_parts import Discriminator
from stillhouse.objectives.terms import Terms
from stillhouse.recipe.builder import Builder
from stillhouse.recipe.execute import distill
from stillhouse.recipe.plan import planned
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.targets import _layouts
from stillhouse.sources.arrays import ImageArray
from stillhouse.store.layout import TopK

INF = math.inf
Row = list[float]
SHAPE = (3, 2, 5)
LABELS = torch.tensor([[0, 4], [2, 1], [3, 3]])


def logits(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def softmax(row: Row, temperature: float = 1.0) -> Row:
    weights = [math.exp(v / temperature) for v in row]
    return [w / sum(weights) for w in weights]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def kl(p: Row, q: Row) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def entropy_of(p: Row) -> float:
    return -sum(a * math.log(a) for a in p if a > 0)


def pearson(a: Row, b: Row) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    both = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return both / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


def by_temperatures(s: Row, t: Row) -> float:
    return 3.0**2 * kl(softmax(t, 5.0), softmax(s, 3.0))


def by_soft(s: Row, t: Row) -> float:
    p, q = softmax(t, 5.0), softmax(s, 3.0)
    return 9.0 * -sum(a * math.log(b) for a, b in zip(p, q, strict=True))


def by_decoupled(s: Row, t: Row, y: int) -> float:
    """By the paper's eq. 2 to 7, from whole softmaxes: probabilities, sums of them, renormalised others."""
    p, q = softmax(t, 4.0), softmax(s, 4.0)
    target = kl([p[y], 1 - p[y]], [q[y], 1 - q[y]])
    rest = [v for v in range(len(p)) if v != y]
    others = kl([p[v] / (1 - p[y]) for v in rest], [q[v] / (1 - q[y]) for v in rest])
    return 16.0 * (0.7 * target + 3.0 * others)


def by_standardised(s: Row, t: Row, less: int = 0) -> float:
    sides = []
    for row in (t, s):
        mean = sum(row) / len(row)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / (len(row) - less))
        sides.append(softmax([(v - mean) / deviation for v in row], 2.0))
    return 4.0 * kl(*sides)


def by_virtual(s: Row, y: int) -> float:
    made = [0.9 if v == y else 0.1 / (len(s) - 1) for v in range(len(s))]
    return kl(softmax(made, 20.0), softmax(s, 2.0))


def by_ranking(s: Row, t: Row, y: int) -> float:
    """Draw classes one by one in the ranking's order; each draw's cost is weighed by the teacher's softmax."""
    p = softmax(t, 2.0)
    left, total = set(range(len(s))), 0.0
    for choice in [y, *sorted((v for v in left if v != y), key=lambda v: -t[v])]:
        chance = math.exp(s[choice]) / sum(math.exp(s[v]) for v in left)
        total -= p[choice] * math.log(chance)
        left.remove(choice)
    return total


def by_enhanced(s: Row, t: Row, y: int, code: bool = False) -> float:
    p, q = softmax(t, 2.0), softmax(s, 2.0)
    total = -((1 + p[y]) ** 1.4 - code) * math.log(q[y])
    return total - sum((p[v] ** 1.4 if code else p[v]) * math.log(q[v]) for v in range(len(s)) if v != y)


def by_skew(s: Row, t: Row, reverse: bool = False) -> float:
    p, q = softmax(t, 2.0), softmax(s, 2.0)
    kept, other = (q, p) if reverse else (p, q)
    return 4.0 * kl(kept, [0.3 * a + 0.7 * b for a, b in zip(kept, other, strict=True)])


def by_alpha_beta(s: Row, t: Row, a: float, b: float) -> float:
    p, q = softmax(t, 2.0), softmax(s, 2.0)
    inner = sum(
        x**a * y**b - a / (a + b) * x ** (a + b) - b / (a + b) * y ** (a + b) for x, y in zip(p, q, strict=True)
    )
    return 4.0 * -inner / (a * b)


def by_binary_norm(s: list[float], t: list[float]) -> float:
    half = [sigmoid((a - b) / 3) for a, b in zip(s, t, strict=True)]
    return 9 * sum(0.5 * math.log(0.5 / q) + 0.5 * math.log(0.5 / (1 - q)) for q in half)


def by_binary(s: Row, t: Row) -> float:
    total = 0.0
    for x, y in zip(s, t, strict=True):
        p, q = sigmoid(y / 2), sigmoid(x / 2)
        total += kl([p, 1 - p], [q, 1 - q])
    return 4.0 * total


def differences(s: Row, t: Row, power: int) -> float:
    return sum(abs(a - b) ** power for a, b in zip(s, t, strict=True)) / len(s)


Loss = Callable[..., Tensor]
# The options are no defaults and differ from one another, so that one in another's place shows.
EACH: dict[str, tuple[Loss, Callable[..., float]]] = {
    "two temperatures": (partial(forward_kl, temperature=3.0, teacher_temperature=5.0), by_temperatures),
    "not squared": (partial(forward_kl, temperature=3.0, squared=False), lambda s, t: kl(softmax(t, 3), softmax(s, 3))),
    "soft": (partial(losses.soft_cross_entropy, temperature=3.0, teacher_temperature=5.0), by_soft),
    "hard": (losses.hard_cross_entropy, lambda s, t: -math.log(softmax(s)[t.index(max(t))])),
    "decoupled": (partial(losses.decoupled, alpha=0.7, beta=3.0, temperature=4.0), by_decoupled),
    "standardised": (losses.standardised_kl, by_standardised),
    "standardised as in the code": (partial(losses.standardised_kl, unbiased=True), partial(by_standardised, less=1)),
    "inter": (
        partial(losses.dist_inter, temperature=2.0),
        lambda s, t: 4 - 4 * pearson(softmax(s, 2), softmax(t, 2)),
    ),
    "many temperatures": (
        partial(losses.multi_temperature_kl, temperatures=(2.0, 5.0)),
        lambda s, t: 4 * kl(softmax(t, 2), softmax(s, 2)) + 25 * kl(softmax(t, 5), softmax(s, 5)),
    ),
    "ranked": (partial(losses.plackett_luce, teacher_temperature=2.0), by_ranking),
    "enhanced": (partial(losses.target_enhanced, gamma=1.4, temperature=2.0), by_enhanced),
    "enhanced as in the code": (
        partial(losses.target_enhanced, gamma=1.4, temperature=2.0, published="code"),
        partial(by_enhanced, code=True),
    ),
    "skew": (partial(skew_kl, alpha=0.3, temperature=2.0), by_skew),
    "skew reverse": (partial(skew_reverse_kl, alpha=0.3, temperature=2.0), partial(by_skew, reverse=True)),
    "alpha-beta": (partial(alpha_beta, alpha=0.2, beta=0.7, temperature=2.0), partial(by_alpha_beta, a=0.2, b=0.7)),
    "total variation": (
        partial(total_variation, temperature=2.0),
        lambda s, t: sum(abs(a - b) for a, b in zip(softmax(s, 2), softmax(t, 2), strict=True)) / 2,
    ),
    "binary": (partial(losses.binary_kl, temperature=2.0), by_binary),
    "binary, normalised": (partial(losses.binary_kl_norm, temperature=3.0), by_binary_norm),
    "mse": (partial(mse, each_position=True), partial(differences, power=2)),
    "l1": (partial(l1, each_position=True), partial(differences, power=1)),
}
WITH_LABELS = {"decoupled", "ranked", "enhanced", "enhanced as in the code"}
NO_DIVERGENCE = {"soft", "hard", "ranked", "enhanced", "enhanced as in the code"}
LOGITS_THEMSELVES = {"mse", "l1", "binary, normalised"}
each = pytest.mark.parametrize("name", EACH)


def applied(name: str, student: Tensor, teacher: Tensor, labels: Tensor = LABELS) -> Tensor:
    return EACH[name][0](student, teacher, **({"labels": labels} if name in WITH_LABELS else {}))


def by_formula(name: str, student: Tensor, teacher: Tensor, labels: Tensor = LABELS) -> Tensor:
    rows = zip(student.flatten(0, -2).tolist(), teacher.flatten(0, -2).tolist(), labels.flatten().tolist(), strict=True)
    values = [EACH[name][1](s, t, *([y] if name in WITH_LABELS else [])) for s, t, y in rows]
    return torch.tensor(values, dtype=torch.float64).reshape(student.shape[:-1])


@each
def test_equals_the_formula(name: str) -> None:
    student, teacher = logits(*SHAPE, seed=1), logits(*SHAPE, seed=2)
    expected = by_formula(name, student, teacher)
    assert expected.std() > 1e-3
    torch.testing.assert_close(applied(name, student, teacher), expected, rtol=1e-6, atol=1e-8)


@each
def test_half_precision_is_computed_in_fp32(name: str) -> None:
    student, teacher = (logits(*SHAPE, seed=seed, dtype=torch.bfloat16) for seed in (3, 4))
    value = applied(name, student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), by_formula(name, student, teacher), rtol=1e-4, atol=1e-5)


@each
def test_gradients_reach_the_student_alone(name: str) -> None:
    student, teacher = logits(*SHAPE, seed=5).requires_grad_(), logits(*SHAPE, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: applied(name, s, teacher), (student,))
    applied(name, student, teacher).sum().backward()
    assert teacher.grad is None


@each
def test_what_identical_sides_are_worth(name: str) -> None:
    same = logits(*SHAPE, seed=7)
    student = same.clone().requires_grad_()
    # a teacher at another temperature is not the same distribution, except at the student's
    if name == "two temperatures":
        same = same * 5 / 3
    value = applied(name, student, same)
    if name in NO_DIVERGENCE:
        assert value.min() > 1e-3
        return
    (gradient,) = torch.autograd.grad(value.sum(), student)
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-9)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-7)


@each
@pytest.mark.parametrize("swapped", [False, True])
def test_extreme_logits_stay_finite(name: str, swapped: bool) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0]])
    teacher = torch.tensor([[-1e4, 1e4, 5.0], [-1e4, 1e4, 1e4], [1e4, 0.0, -1e4]])
    student, teacher = (teacher, student) if swapped else (student, teacher)
    student.requires_grad_()
    value = applied(name, student, teacher, torch.tensor([0, 1, 2]))
    assert value.isfinite().all()
    assert torch.autograd.grad(value.sum(), student)[0].isfinite().all()


@pytest.mark.parametrize(
    "name", sorted(set(EACH) - LOGITS_THEMSELVES - {"standardised", "standardised as in the code", "ranked", "inter"})
)
def test_classes_that_both_exclude_add_nothing(name: str) -> None:
    student, teacher, labels = logits(4, 5, seed=8), logits(4, 5, seed=9), torch.tensor([0, 4, 2, 1])
    barred = torch.full((4, 2), -INF, dtype=torch.float64)
    wide = torch.cat([student, barred], -1).requires_grad_()
    narrow = student.clone().requires_grad_()
    value = applied(name, wide, torch.cat([teacher, barred], -1), labels)
    expected = applied(name, narrow, teacher, labels)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value.sum(), wide)
    (wanted,) = torch.autograd.grad(expected.sum(), narrow)
    torch.testing.assert_close(gradient, torch.cat([wanted, torch.zeros_like(barred)], -1))


@pytest.mark.parametrize("name", sorted(WITH_LABELS))
def test_a_position_without_a_label_is_worth_nothing(name: str) -> None:
    student, teacher = logits(3, 5, seed=10).requires_grad_(), logits(3, 5, seed=11)
    labels = torch.tensor([1, -100, 4])
    value = applied(name, student, teacher, labels)
    assert value[1] == 0
    torch.testing.assert_close(value[[0, 2]], applied(name, student[[0, 2]], teacher[[0, 2]], labels[[0, 2]]))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert gradient[1].abs().max() == 0 < gradient[0].abs().max()
    with pytest.raises(StillhouseError, match="one class index for each position"):
        applied(name, student, teacher, labels[:2])
    with pytest.raises(StillhouseError, match="one class index for each position"):
        applied(name, student, teacher, labels.double())


@each
def test_shapes_that_differ_are_refused(name: str) -> None:
    with pytest.raises(StillhouseError, match=r"\(4, .*\(1, "):
        applied(name, torch.zeros(4, 5), torch.zeros(1, 5), torch.zeros(4, dtype=torch.long))


# closed forms and limits


def test_decoupled_adds_up_to_the_kl() -> None:
    """Zhao et al. 2022, eq. 6: KD = TCKD + (1 - p_t) NCKD."""
    student, teacher, labels = logits(6, 5, seed=12), logits(6, 5, seed=13), torch.arange(6) % 5
    parts = {
        name: losses.decoupled(student, teacher, labels=labels, alpha=a, beta=b, temperature=3.0)
        for name, a, b in (("target", 1.0, 0.0), ("others", 0.0, 1.0))
    }
    rest = 1 - (teacher / 3).softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
    torch.testing.assert_close(parts["target"] + rest * parts["others"], forward_kl(student, teacher, temperature=3.0))


def test_decoupled_sees_others_that_vanish_beside_the_true_class() -> None:
    """Their mass, 1e-17, is lost by 1 - p in fp32, and their relation must not be."""
    student, teacher = torch.tensor([[40.0, 0.0, 1.0]]), torch.tensor([[40.0, 1.0, 0.0]])
    value = losses.decoupled(student, teacher, labels=torch.tensor([0]), alpha=0.0, beta=1.0, temperature=1.0)
    p = sigmoid(1.0)
    assert value.item() == pytest.approx(kl([p, 1 - p], [1 - p, p]), rel=1e-5)


def test_a_standardised_student_may_have_any_shift_and_scale() -> None:
    teacher = logits(4, 6, seed=14)
    torch.testing.assert_close(
        losses.standardised_kl(7 * teacher - 3, teacher), torch.zeros(4).double(), atol=1e-9, rtol=0
    )
    assert forward_kl(7 * teacher - 3, teacher).min() > 1e-2
    flat = torch.zeros(2, 3, requires_grad=True)
    value = losses.standardised_kl(flat, torch.randn(2, 3))
    assert torch.autograd.grad(value.sum(), flat)[0].isfinite().all()


def test_dist_is_free_of_scale_and_shift_of_probabilities() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2]]).double()
    q = 0.5 * p + 0.5 / 3  # towards the uniform distribution: the same order and proportions
    torch.testing.assert_close(losses.dist_inter(q.log(), p.log()), torch.zeros(1).double(), atol=1e-12, rtol=0)
    opposite = 2 / 3 - p
    torch.testing.assert_close(losses.dist_inter(opposite.log(), p.log()), torch.full((1,), 2.0).double())


def test_dist_intra_correlates_a_class_over_the_batch() -> None:
    student, teacher = logits(*SHAPE, seed=15), logits(*SHAPE, seed=16)
    ours, theirs = ([softmax(row, 2.0) for row in side.flatten(0, -2).tolist()] for side in (student, teacher))
    expected = [4 - 4 * pearson([row[v] for row in ours], [row[v] for row in theirs]) for v in range(5)]
    value = losses.dist_intra(student, teacher, temperature=2.0)
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: losses.dist_intra(s, teacher, temperature=2.0), (student,))
    torch.testing.assert_close(losses.dist_intra(teacher, teacher), torch.zeros(5).double(), atol=1e-9, rtol=0)
    alone = torch.randn(1, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.dist_intra(alone, torch.randn(1, 5)).sum(), alone)
    assert gradient.abs().max() == 0  # one example has no correlation, and it is no NaN


@pytest.mark.parametrize("of_classes", [False, True])
def test_the_gram_levels(of_classes: bool) -> None:
    student, teacher = logits(*SHAPE, seed=17), logits(*SHAPE, seed=18)
    count = 5 if of_classes else 6
    expected = [0.0] * count
    for t in (2.0, 3.0):
        ours, theirs = ([softmax(row, t) for row in side.flatten(0, -2).tolist()] for side in (student, teacher))
        if of_classes:
            ours, theirs = ([list(column) for column in zip(*side, strict=True)] for side in (ours, theirs))
        for i in range(count):
            for j in range(count):
                alike = [sum(a * b for a, b in zip(side[i], side[j], strict=True)) for side in (ours, theirs)]
                expected[i] += (alike[0] - alike[1]) ** 2
    function = losses.class_gram if of_classes else losses.batch_gram
    torch.testing.assert_close(
        function(student, teacher, temperatures=(2.0, 3.0)), torch.tensor(expected, dtype=torch.float64)
    )
    student.requires_grad_()
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: function(s, teacher), (student,))
    function(student, teacher).sum().backward()
    assert teacher.grad is None
    assert function(teacher, teacher).abs().max() < 1e-12


def test_the_virtual_teacher() -> None:
    student = logits(3, 2, 5, seed=19).requires_grad_()
    options: dict[str, float] = {"correct": 0.9, "temperature": 20.0, "student_temperature": 2.0}
    value = losses.virtual_teacher_kl(student, LABELS, **options)
    rows = zip(student.flatten(0, -2).tolist(), LABELS.flatten().tolist(), strict=True)
    expected = torch.tensor([by_virtual(s, y) for s, y in rows], dtype=torch.float64).reshape(3, 2)
    torch.testing.assert_close(value, expected)
    assert torch.autograd.gradcheck(lambda s: losses.virtual_teacher_kl(s, LABELS, **options), (student,))
    without = losses.virtual_teacher_kl(student, torch.full_like(LABELS, -100))
    assert without.abs().max() == 0


def test_plackett_luce_with_all_confidence_in_the_label_is_the_cross_entropy() -> None:
    student, labels = logits(4, 5, seed=20), torch.tensor([0, 3, 3, 1])
    certain = torch.zeros(4, 5).double().scatter(-1, labels[:, None], 1e3)
    value = losses.plackett_luce(student, certain, labels=labels)
    torch.testing.assert_close(value, cross_entropy(student, labels))


def test_plackett_luce_puts_the_label_before_what_the_teacher_prefers() -> None:
    """Two classes, a teacher that is wrong: one choice, of the label, weighed by the teacher's doubt in it."""
    student, teacher = torch.tensor([[0.0, 2.0]]), torch.tensor([[math.log(0.25), math.log(0.75)]])
    value = losses.plackett_luce(student, teacher, labels=torch.tensor([0]))
    assert value.item() == pytest.approx(0.25 * math.log(1 + math.exp(2.0)), rel=1e-5)


def test_target_enhancement_at_gamma_one() -> None:
    """The text: labels' and soft cross-entropy. The code: soft cross-entropy alone."""
    student, teacher, labels = logits(4, 5, seed=21), logits(4, 5, seed=22), torch.tensor([0, 3, 3, 1])
    soft = losses.soft_cross_entropy(student, teacher)
    text, code = (
        losses.target_enhanced(student, teacher, labels=labels, published=published) for published in ("text", "code")
    )
    torch.testing.assert_close(code, soft)
    torch.testing.assert_close(text, soft + cross_entropy(student, labels))


def test_the_divergences_tend_to_their_limits() -> None:
    student, teacher = logits(8, 5, seed=23), logits(8, 5, seed=24)
    limits = {
        "skew": (lambda e: skew_kl(student, teacher, alpha=e), forward_kl),
        "skew reverse": (lambda e: skew_reverse_kl(student, teacher, alpha=e), reverse_kl),
        "alpha-beta forward": (lambda e: alpha_beta(student, teacher, alpha=1.0, beta=e), forward_kl),
        "alpha-beta reverse": (lambda e: alpha_beta(student, teacher, alpha=e, beta=1.0), reverse_kl),
    }
    for name, (near, limit) in limits.items():
        wanted = limit(student, teacher)
        errors = [(near(e) - wanted).abs().max() for e in (1e-2, 1e-4, 1e-6)]
        assert errors[0] > errors[1] > errors[2], name
        assert errors[2] < 1e-3, name


def test_bounds() -> None:
    apart = torch.tensor([[60.0, 0.0]]), torch.tensor([[0.0, 60.0]])
    assert skew_kl(*apart, alpha=0.1).item() == pytest.approx(-math.log(0.1), rel=1e-5)
    assert skew_reverse_kl(*apart, alpha=0.1).item() == pytest.approx(-math.log(0.1), rel=1e-5)
    assert total_variation(*apart).item() == pytest.approx(1.0)


def test_alpha_beta_at_one_and_one_is_half_the_squared_difference() -> None:
    student, teacher = logits(4, 5, seed=25), logits(4, 5, seed=26)
    expected = (student.softmax(-1) - teacher.softmax(-1)).square().sum(-1) / 2
    torch.testing.assert_close(alpha_beta(student, teacher, alpha=1.0, beta=1.0), expected)


def test_binary_cross_entropy_is_the_binary_kl_where_labels_are_sure() -> None:
    student, labels = logits(4, 5, seed=27).requires_grad_(), logits(4, 5, seed=28) > 0
    value = losses.binary_cross_entropy(student, labels)
    sure = torch.where(labels, 1e4, -1e4).double()
    torch.testing.assert_close(value, losses.binary_kl(student, sure))
    expected = [
        -sum(math.log(sigmoid(x if y else -x)) for x, y in zip(s, row, strict=True))
        for s, row in zip(student.tolist(), labels.tolist(), strict=True)
    ]
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda s: losses.binary_cross_entropy(s, labels), (student,))
    with pytest.raises(StillhouseError, match="shapes must be equal"):
        losses.binary_cross_entropy(student, labels[:, 0])


def test_a_regression_that_beats_its_teacher_is_let_alone() -> None:
    student = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 3.0]], requires_grad=True)
    teacher = torch.tensor([[2.0, 0.0], [0.5, 0.5], [0.0, 3.0]], requires_grad=True)
    truth = torch.zeros(3, 2)
    # squared errors: student 2, 2, 9; teacher 4, 0.5, 9
    by_margin = {0.0: [0.0, 2.0, 0.0], 0.5: [0.0, 2.0, 9.0], 2.5: [2.0, 2.0, 9.0]}
    for margin, expected in by_margin.items():
        value = losses.bounded_regression(student, teacher, labels=truth, margin=margin)
        torch.testing.assert_close(value, torch.tensor(expected))
        (gradient,) = torch.autograd.grad(value.sum(), student)
        kept = torch.tensor(expected)[:, None] > 0
        torch.testing.assert_close(gradient, torch.where(kept, 2 * student.detach(), 0.0))
    losses.bounded_regression(student, teacher, labels=truth, margin=9.0).sum().backward()
    assert teacher.grad is None
    single = losses.bounded_regression(student[:, :1], teacher[:, :1], labels=torch.tensor([0.0, 2.0, 1.0]))
    torch.testing.assert_close(single, torch.tensor([0.0, 0.0, 0.0]))
    with pytest.raises(StillhouseError, match="shapes must be equal"):
        losses.bounded_regression(student, teacher, labels=torch.zeros(3))


def test_distances_of_logits_are_of_positions_and_of_features_of_examples() -> None:
    of_logits, of_features = Terms([logit_kinds.L1(signal="logits"), logit_kinds.L1(signal="features.x")])
    ours, theirs = (
        {"logits": torch.ones(2, 3, 4), "features.x": torch.ones(2, 3, 4)},
        dict.fromkeys(["logits", "features.x"], torch.zeros(2, 3, 4)),
    )
    assert of_logits(ours, theirs, None, torch.ones(2, 3)).values.shape == (2, 3)
    assert of_features(ours, theirs, None, torch.ones(2, 3)).values.shape == (2,)


# gates


def test_confidence_and_entropy_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [0.9, 0.1, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(logit_weights.confidence(p.log()), torch.tensor([0.5, 0.9, 1 / 3]))
    torch.testing.assert_close(logit_weights.confidence(p.log(), at_least=0.5001), torch.tensor([0.0, 1.0, 0.0]))
    uncertain = torch.tensor([entropy_of(row) / math.log(3) for row in p.tolist()])
    torch.testing.assert_close(logit_weights.entropy(p.log(), favours="uncertain"), uncertain)
    torch.testing.assert_close(logit_weights.entropy(p.log()), 1 - uncertain)
    softer = logit_weights.confidence(p[:1].log(), temperature=2.0)
    torch.testing.assert_close(softer, torch.tensor([math.sqrt(0.5) / (math.sqrt(0.5) + 1.0)]))


def test_disagreement_by_hand() -> None:
    student, teacher = torch.tensor([[2.0, 1], [0, 3], [5, 4]]), torch.tensor([[1.0, 0], [2, 1], [0, 9]])
    assert logit_weights.disagreement(student, teacher).tolist() == [1.0, 2.0, 2.0]
    assert logit_weights.disagreement(student, teacher, apart=0.5, same=3.0).tolist() == [3.0, 0.5, 0.5]


def test_correct_by_hand() -> None:
    answers, labels = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 0, -100])
    torch.testing.assert_close(logit_weights.correct(answers, labels), torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(
        logit_weights.correct(answers, labels, right=0.25, wrong=2.0), torch.tensor([0.25, 2.0, 2.0])
    )


def test_bias_variance_by_hand() -> None:
    q, p, y = torch.tensor([[0.5, 0.5], [0.99, 0.01]]), torch.tensor([[0.8, 0.2], [0.8, 0.2]]), torch.tensor([0, 0])
    expected = [1 - math.exp(-math.log(own) / math.log(0.8)) for own in (0.5, 0.99)]
    torch.testing.assert_close(logit_weights.bias_variance(q.log(), p.log(), y), torch.tensor(expected))
    certain = torch.tensor([[1e4, -1e4], [0.0, 0.0]])
    assert logit_weights.bias_variance(certain, certain, y).isfinite().all()


def test_class_balance_by_hand() -> None:
    counts, beta = [1, 2, 10], 0.5
    shares = [0.5 / (1 - 0.5**n) for n in counts]
    expected = torch.tensor([3 * share / sum(shares) for share in shares])
    torch.testing.assert_close(
        logit_weights.class_balanced(torch.tensor([2, 0]), counts=counts, beta=beta), expected[[2, 0]]
    )
    torch.testing.assert_close(
        logit_weights.class_balanced(5 * torch.eye(3)[[1, 0]], counts=counts, beta=beta), expected[[1, 0]]
    )
    torch.testing.assert_close(
        logit_weights.class_balanced(torch.arange(3), counts=[100, 200, 400], beta=1 - 1e-7),
        3 * torch.tensor([4.0, 2.0, 1.0]) / 7,
        rtol=1e-2,
        atol=0,
    )
    for asked in (torch.tensor([3]), torch.zeros(1, 4)):
        with pytest.raises(StillhouseError, match="counts are given for 3 classes, and there are 4"):
            logit_weights.class_balanced(asked, counts=counts, beta=beta)


def test_the_least_certain_are_picked() -> None:
    scores = torch.tensor([[9.0, 0.0], [0.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 5.0]])
    assert logit_weights.highest_entropy(scores, share=0.5).tolist() == pytest.approx([0.0, 5 / 3, 5 / 3, 5 / 3, 0.0])
    assert logit_weights.highest_entropy(scores, share=0.2).tolist() == [0.0, 5.0, 0.0, 0.0, 0.0]


def test_a_discriminator_is_deceived_by_the_student_and_trained_against_it() -> None:
    student, teacher = logits(6, 4, seed=41).requires_grad_(), logits(6, 4, seed=42).requires_grad_()
    torch.manual_seed(0)
    part = Discriminator(student, teacher, width=5).double()
    value = part(student, teacher)
    odds = [part.told(side).squeeze(-1).sigmoid() for side in (student, teacher)]
    expected = -odds[0].log() - (1 - odds[1]).log()
    torch.testing.assert_close(value, expected)
    parameters = list(part.parameters())
    theirs = torch.autograd.grad(expected.sum(), [student, *parameters], retain_graph=True)
    ours = torch.autograd.grad(value.sum(), [student, *parameters], retain_graph=True)
    torch.testing.assert_close(ours[0], -theirs[0])
    torch.testing.assert_close(ours[1:], theirs[1:])
    value.sum().backward()
    assert teacher.grad is None


def test_an_auxiliary_head_is_a_projector_of_the_features() -> None:
    kind = {"by": "binary_kl_norm", "signal": "features.pool", "teacher_signal": "logits", "project": "linear"}
    (term,) = Terms(Match.model_validate({"terms": [kind]}).terms)
    student, teacher = {"features.pool": torch.randn(5, 7, requires_grad=True)}, {"logits": torch.randn(5, 3)}
    part = term.part(student, teacher)
    assert part is not None
    loss = term(student, teacher, None, None, parts={term.name: part})
    head = next(part.parameters())
    expected = losses.binary_kl_norm(student["features.pool"] @ head.T, teacher["logits"])
    torch.testing.assert_close(loss.values, expected)


def gated(gate: dict[str, Any] | None, **term: Any) -> Any:
    options = {"by": "kl"} | term | ({} if gate is None else {"gate": gate})
    match = Match.model_validate({"terms": [options]})
    return Terms(match.terms)[0]


def test_a_gate_multiplies_values_and_has_no_gradient() -> None:
    student, teacher = (
        logits(4, 5, seed=29, dtype=torch.float32).requires_grad_(),
        logits(4, 5, seed=30, dtype=torch.float32),
    )
    sides = {"logits": student}, {"logits": teacher}
    labels = teacher.argmax(-1).roll(1)
    plain = gated(None)(*sides, labels, None)
    for gate, weights in {
        "confidence": logit_weights.confidence(student),
        "entropy": logit_weights.entropy(student),
        "correct": logit_weights.correct(student, labels),
    }.items():
        weights = weights.detach()
        loss = gated({"by": gate, "of": "student"})(*sides, labels, None)
        torch.testing.assert_close(loss.values, plain.values * weights)
        (gradient,) = torch.autograd.grad(loss.values.sum(), student, retain_graph=True)
        (wanted,) = torch.autograd.grad((plain.values * weights).sum(), student, retain_graph=True)
        torch.testing.assert_close(gradient, wanted)
    right = gated({"by": "correct"})(*sides, labels, None)
    assert 0 < (right.values == 0).sum() < 4
    assert right.values.numel() == 4  # still divided by all examples


def test_a_gate_looks_at_logits_whatever_its_term_does() -> None:
    term = gated({"by": "correct"}, by="mse", signal="features.x")
    assert (term.student_signals, term.teacher_signals) == (["features.x"], ["features.x", "logits"])
    teacher = {"logits": torch.eye(3), "features.x": torch.zeros(3, 2)}
    labels = torch.tensor([0, 1, 1])
    loss = term({"features.x": torch.ones(3, 2)}, teacher, labels, torch.ones(3))
    assert loss.where is None
    assert loss.values.tolist() == [1.0, 1.0, 0.0]
    assert term.part({"features.x": torch.ones(3, 2)}, teacher) is None
    with pytest.raises(StillhouseError, match="looks at teacher, labels, and one is missing"):
        term({"features.x": torch.ones(3, 2)}, teacher, None, None)


def test_a_gate_of_a_term_with_one_value_a_class_is_refused() -> None:
    with pytest.raises(StillhouseError, match=r"weights of shape \(4,\) .* \(5,\)"):
        gated({"by": "confidence"}, by="dist_intra")(
            {"logits": torch.randn(4, 5)}, {"logits": torch.randn(4, 5)}, None, None
        )


def test_the_control_keeps_no_gate_that_needs_the_teacher() -> None:
    balanced = {"by": "class_balanced", "counts": [3, 4]}
    for gate, kept in (
        ({"by": "correct"}, None),
        ({"by": "class_balanced", "counts": [3, 4], "of": "teacher"}, None),
        (balanced, balanced),
    ):
        match = Match.model_validate({"terms": ["kl", {"by": "cross_entropy", "weight": 0.1, "gate": gate}]})
        (own,) = match.without_teacher().terms
        assert own == CrossEntropy.model_validate({"gate": kept})


def test_a_weight_above_one_goes_past_the_teacher_away_from_the_labels() -> None:
    """Das & Sanghavi 2023: xi l(teacher) + (1 - xi) l(labels), xi > 1; the target is xi p + (1 - xi) one-hot."""
    xi, labels = 1.5, torch.tensor([1, 0])
    student, teacher = logits(2, 3, seed=31).requires_grad_(), logits(2, 3, seed=32)
    match = Match.model_validate(
        {"terms": [{"by": "soft_cross_entropy", "weight": xi}, {"by": "cross_entropy", "weight": 1 - xi}]}
    )
    found = {t.name: t({"logits": student}, {"logits": teacher}, labels, None) for t in Terms(match.terms)}
    roots, seeds = gradients(found, [2, 2])  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(roots, student, seeds)
    target = xi * teacher.softmax(-1) + (1 - xi) * torch.eye(3, dtype=torch.float64)[labels]
    torch.testing.assert_close(gradient, (student.softmax(-1) - target) / 2)


def test_conditional_information() -> None:
    """Against the definition, class by class; zero where a class is answered alike; no gradient through the means."""
    given, labels = logits(8, 4, seed=51).requires_grad_(), torch.tensor([2, 0, 2, 2, 0, 1, -100, 3])
    found = losses.conditional_information(given, labels)
    q = given.detach().softmax(-1)
    expected = torch.zeros(8).double()
    for label in range(4):
        rows = (labels == label).nonzero().squeeze(1)
        expected[rows] = (q[rows] * (q[rows] / q[rows].mean(0)).log()).sum(-1)
    torch.testing.assert_close(found.detach(), expected)
    assert expected[:3].min() > 1e-3
    (gradient,) = torch.autograd.grad(found.sum(), given)
    fixed = torch.stack([q[labels == label].mean(0) for label in labels]).log()
    own = q.clone().log().requires_grad_()  # the same logits up to a shift
    log_q = own.log_softmax(-1)
    (naive,) = torch.autograd.grad(((log_q.exp() * (log_q - fixed)).sum(-1) * (labels >= 0)).sum(), own)
    torch.testing.assert_close(gradient, naive)
    alike = logits(1, 4, seed=52).expand(8, -1)
    torch.testing.assert_close(losses.conditional_information(alike, labels), torch.zeros(8).double())


def test_what_an_ensemble_lacks() -> None:
    """KL to the mean of probabilities, in float64; alone it is the plain KL; zero where the student fills the gap."""
    student, teacher, first, second = (logits(5, 4, seed=seed) for seed in (61, 62, 63, 64))
    student.requires_grad_()
    found = losses.ensemble_kl(student, [teacher, first, second], temperature=2.0)
    p, *q = ((one / 2).softmax(-1) for one in (teacher, student, first, second))
    expected = 4 * (p * (p / torch.stack(q).mean(0)).log()).sum(-1)
    torch.testing.assert_close(found, expected)
    for gradients_of in (found, expected):
        (gradient,) = torch.autograd.grad(gradients_of.sum(), student, retain_graph=True)
        student.grad = gradient if student.grad is None else student.grad - gradient
    torch.testing.assert_close(student.grad, torch.zeros(5, 4).double())
    alone = losses.ensemble_kl(student, [teacher])
    torch.testing.assert_close(alone, forward_kl(student, teacher))
    known = torch.tensor([[0.5, 0.3, 0.2]]).double()
    wanted = torch.tensor([[0.4, 0.2, 0.4]]).double()
    filled = losses.ensemble_kl((2 * wanted - known).log(), [wanted.log(), known.log()])
    torch.testing.assert_close(filled, torch.zeros(1).double())


def test_permuted_dark_knowledge() -> None:
    """The most likely class keeps its probability, the others the same set of them, each index in an order of its
    own; a student that answers so is at zero, and the gradient is that of the KL to this target."""
    teacher, index = logits(64, 6, seed=41), torch.arange(64) + 1000
    student = logits(64, 6, seed=42).requires_grad_()
    (gradient,) = torch.autograd.grad(losses.permuted_kl(student, teacher, index=index).sum(), student)
    target = (student.softmax(-1) - gradient).detach()  # of KL(P || Q) with respect to the logits: Q - P
    p, best = teacher.softmax(-1), teacher.argmax(-1)
    torch.testing.assert_close(target.sort(-1).values, p.sort(-1).values)
    assert torch.equal(target.argmax(-1), best)
    moved = (target - p).abs().amax(-1) > 1e-9
    assert moved.float().mean() > 0.9
    torch.testing.assert_close(losses.permuted_kl(target.log(), teacher, index=index), torch.zeros(64).double())
    alike = teacher[:1].expand(64, -1)
    (gradient,) = torch.autograd.grad(losses.permuted_kl(student, alike, index=index).sum(), student)
    orders = {tuple(row.tolist()) for row in (student.softmax(-1) - gradient).argsort(-1)}
    assert len(orders) > 40  # of 120
    again = losses.permuted_kl(student, teacher, index=index.flip(0)).flip(0)
    assert not torch.allclose(again, losses.permuted_kl(student, teacher, index=index))


def test_a_top_k_store_is_made_at_the_teachers_own_temperature() -> None:
    recipe = recipe_of({"by": "kl", "temperature": 2.0, "teacher_temperature": 5.0})
    layout = _layouts(recipe, 3, "float32")["logits"]
    assert isinstance(layout, TopK)
    assert layout.temperature == 5.0
    with pytest.raises(StillhouseError, match=r"2\.0, 3\.0"):
        _layouts(recipe_of({"by": "multi_temperature_kl", "temperatures": [2, 3]}), 3, "float32")


# in a real step

TERMS: dict[str, dict[str, Any]] = {
    "l1": {},
    "soft_cross_entropy": {"temperature": 2.0, "teacher_temperature": 3.0, "squared": False},
    "hard_cross_entropy": {},
    "permuted_kl": {"temperature": 2.0},
    "virtual_teacher_kl": {"correct": 0.95},
    "decoupled": {"beta": 2.0},
    "standardised_kl": {},
    "dist_inter": {},
    "dist_intra": {"temperature": 2.0},
    "multi_temperature_kl": {"temperatures": [1.0, 4.0]},
    "batch_gram": {},
    "class_gram": {},
    "plackett_luce": {},
    "target_enhanced": {"gamma": 1.5, "published": "code"},
    "skew_kl": {"alpha": 0.2},
    "skew_reverse_kl": {"alpha": 0.2},
    "ensemble_kl": {"teacher_signal": ["logits", "logits"]},
    "alpha_beta": {"alpha": 0.5, "beta": 0.5},
    "total_variation": {},
    "conditional_information": {"weight": -0.5},
    "binary_kl": {"temperature": 2.0},
    "binary_kl_norm": {},
    "discriminator": {},
}
GATES: dict[str, dict[str, Any]] = {
    "confidence": {"temperature": 2.0},
    "entropy": {"of": "student", "favours": "uncertain"},
    "entropy_gap": {},
    "disagreement": {"apart": 3.0},
    "highest_entropy": {},
    "correct": {"right": 1.0, "wrong": 0.5},
    "bias_variance": {},
    "class_balanced": {"counts": list(range(1, 11))},
}
REAL_LABELS: dict[str, dict[str, Any]] = {"binary_cross_entropy": {}, "bounded_regression": {"margin": 10.0}}


def recipe_of(term: dict[str, Any]) -> Recipe:
    whole = small_recipe(steps=1, batch_size=8, ema=None).model_dump(mode="json")
    whole["teacher"] = {"network": {"kind": "mlp", "hidden": [16]}}
    whole["student"] = {"network": {"kind": "mlp", "hidden": [8]}}
    whole["method"] = {"kind": "match", "terms": [term]}
    return Recipe.model_validate(whole)


def test_every_kind_is_run_below() -> None:
    own = {name for name, kind in kinds("term").items() if kind.__module__ == logit_kinds.__name__}
    assert own == {*TERMS, *REAL_LABELS}
    assert set(kinds("gate")) == set(GATES)


@pytest.mark.parametrize("by", TERMS)
def test_a_term_in_a_run(by: str, tmp_path: Path) -> None:
    recipe = recipe_of({"by": by} | TERMS[by])
    moved(recipe)
    distill(recipe, out=tmp_path / "run", device="cpu", progress=False)


@pytest.mark.parametrize("by", GATES)
def test_a_gate_in_a_step(by: str) -> None:
    ungated, gated = (moved(recipe_of({"by": "kl"} | extra)) for extra in ({}, {"gate": {"by": by} | GATES[by]}))
    assert not torch.equal(ungated, gated)


@pytest.mark.parametrize("by", REAL_LABELS)
def test_a_term_on_labels_that_are_no_classes(by: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(16, 1, 8, 8, generator=generator), torch.rand(16, 3, generator=generator)
    split = ImageArray(images, labels.round() if by == "binary_cross_entropy" else labels, fingerprint="sixteen")
    data = Data(split, split, split, Facts(task="classification", shape=(1, 8, 8), classes=3))
    moved(recipe_of({"by": by} | REAL_LABELS[by]), data)


def moved(recipe: Recipe, data: Data | None = None) -> Tensor:
    """The gradient of the first weight of the student for one batch, after a look at it."""
    stage = Builder(recipe, data=data).stage(planned(recipe)[-1])
    batch = stage.source.fetch(torch.arange(8), None)
    (turn,) = stage.method.schedule()
    found = turn.losses(batch, torch.Generator())
    (loss,) = found.values()
    roots, seeds = gradients(found, [loss.values.numel()])
    weight = next(stage.method.players()["student"].module.parameters())
    (gradient,) = torch.autograd.grad(roots, weight, seeds)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    return gradient
