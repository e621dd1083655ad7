"""Relation and contrast terms against loops in float64, their gradients, and one step of each in a run."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillhouse.engine.checkpoint import read_summed
from stillhouse.engine.events import Listener, Saved
from stillhouse.errors import Interrupted, StillhouseError
from stillhouse.objectives.contrast import CRD, BatchContrast
from stillhouse.objectives.relations import correlation_congruence, relational_angle, relational_distance
from stillhouse.objectives.token_relations import HeadMap, TaskFilters, attention_relations, attention_scores
from stillhouse.recipe.execute import distill, resume
from stillhouse.recipe.schema import Recipe

Rows = list[list[float]]
PAIRED: dict[str, Callable[..., Tensor]] = {
    "distance": relational_distance,
    "angle": relational_angle,
    "congruence": correlation_congruence,
}
paired = pytest.mark.parametrize("name", PAIRED)


def features(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- naive computations ----------------------------------------------------------------------


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def minus(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def unit(a: list[float]) -> list[float]:
    length = math.sqrt(dot(a, a))
    return [x / length if length else 0.0 for x in a]


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def naive_distances(rows: Rows) -> Rows:
    plain = [[math.dist(a, b) for b in rows] for a in rows]
    apart = [d for row in plain for d in row if d > 0]
    mean = sum(apart) / len(apart)
    return [[d / mean for d in row] for row in plain]


def naive_kernel(rows: Rows) -> Rows:
    rows = [unit(row) for row in rows]
    scale, gamma = math.exp(-0.8), 0.4
    return [[scale * (1 + 2 * gamma * dot(a, b) + 0.5 * (2 * gamma * dot(a, b)) ** 2) for b in rows] for a in rows]


def naive(name: str, student: Tensor, teacher: Tensor) -> Tensor:
    s, t = (x.double().flatten(1).tolist() for x in (student, teacher))
    every = range(len(s))
    if name == "distance":
        one, two = naive_distances(s), naive_distances(t)
        values = [sum(huber(one[i][j] - two[i][j]) for j in every) / len(s) for i in every]
    elif name == "congruence":
        one, two = naive_kernel(s), naive_kernel(t)
        values = [sum((one[i][j] - two[i][j]) ** 2 for j in every) / len(s) for i in every]
    else:
        values = []
        for j in every:
            cosines = [
                [dot(unit(minus(x[i], x[j])), unit(minus(x[k], x[j]))) for i in every for k in every] for x in (s, t)
            ]
            values.append(sum(huber(a - b) for a, b in zip(*cosines, strict=True)) / len(s) ** 2)
    return torch.tensor(values, dtype=torch.float64)


# --- relations between examples --------------------------------------------------------------


@paired
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_loops(name: str, dtype: torch.dtype) -> None:
    """The student is not a multiple of the teacher, has another width, and one pair of equal rows."""
    student, teacher = features(7, 3, 2, seed=1, dtype=dtype), 3 * features(7, 5, seed=2, dtype=dtype)
    student[4] = student[1]
    expected = naive(name, student, teacher)
    assert expected.min() > 1e-3
    value = PAIRED[name](student, teacher)
    assert value.shape == (7,)
    rtol, atol = (1e-4, 1e-5) if dtype == torch.float32 else (1e-10, 1e-12)
    torch.testing.assert_close(value.double(), expected, rtol=rtol, atol=atol)


def test_distances_by_hand() -> None:
    """Three points on a line at 0, 1, 3: distances 1, 2, 3 with mean 2; against 0, 2, 3: 2, 1, 3 with mean 2."""
    student, teacher = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0], [3.0]])
    expected = torch.tensor([0.125, 0.25, 0.125]) / 3
    torch.testing.assert_close(relational_distance(student, teacher), expected)


def test_angles_by_hand() -> None:
    """A right angle at the first point becomes a straight one: a cosine of 0 becomes -1, counted as (i, k), (k, i)."""
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    expected = torch.tensor([2 * 0.5, *[2 * 0.5 * (1 - math.sqrt(0.5)) ** 2] * 2]) / 9
    torch.testing.assert_close(relational_angle(student, teacher), expected)


@paired
def test_what_a_relation_does_not_see(name: str) -> None:
    """Rotations, scales (all three) and shifts (not the kernel of directions) of the student."""
    teacher = features(6, 4, seed=3)
    rotation = torch.linalg.qr(features(4, 4, seed=4)).Q
    shift = 0.0 if name == "congruence" else 7.0
    value = PAIRED[name](2.5 * teacher @ rotation + shift, teacher)
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-12)


@paired
def test_identical_inputs_give_zero_and_no_gradient(name: str) -> None:
    same = features(5, 4, seed=5)
    same[3] = same[0]
    student = same.clone().requires_grad_()
    value = PAIRED[name](student, same)
    assert value.abs().max() == 0
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert gradient.abs().max() == 0


@paired
def test_gradients(name: str) -> None:
    student, teacher = features(5, 3, seed=6).requires_grad_(), features(5, 4, seed=7)
    assert torch.autograd.gradcheck(lambda s: PAIRED[name](s, teacher), (student,))


@paired
@pytest.mark.parametrize("rows", [[0, 0, 1, 2], [0, 0, 0, 0], [0]])
def test_equal_rows_have_finite_values_and_gradients(name: str, rows: list[int]) -> None:
    student = features(3, 4, seed=8)[rows].requires_grad_()
    value = PAIRED[name](student, features(len(rows), 4, seed=9))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert value.isfinite().all()
    assert gradient.abs().max() < 100, "not NaN, and no 1 / eps either"
    if len(set(rows)) > 1:
        assert gradient.abs().max() > 1e-3


@paired
def test_a_row_of_zeros_has_a_finite_gradient(name: str) -> None:
    student = (features(4, 3, seed=10) * torch.tensor([[0.0], [1.0], [1.0], [1.0]])).requires_grad_()
    (gradient,) = torch.autograd.grad(PAIRED[name](student, features(4, 3, seed=11)).sum(), student)
    assert gradient.isfinite().all()


@paired
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    student, teacher = features(4, 3, seed=12).requires_grad_(), features(4, 3, seed=13).requires_grad_()
    PAIRED[name](student, teacher).sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 1e-3
    assert teacher.grad is None


@paired
def test_half_precision_and_autocast_are_computed_in_fp32(name: str) -> None:
    """Far from the origin, where products of rows lose the distances between them in bf16."""
    student, teacher = ((4 + features(6, 8, seed=seed)).bfloat16() for seed in (14, 15))
    expected = naive(name, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = [PAIRED[name](student, teacher), PAIRED[name](student.float(), teacher.float())]
    for value in values:
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=1e-6)


@paired
def test_batches_that_differ_are_refused(name: str) -> None:
    with pytest.raises(StillhouseError, match="one and the same batch"):
        PAIRED[name](torch.zeros(4, 3), torch.zeros(5, 3))


# --- CRD -------------------------------------------------------------------------------------

N, K = 12, 40
CLASSES = torch.arange(N) % 3


def crd(**options: Any) -> CRD:
    torch.manual_seed(0)
    options = {"examples": N, "negatives": K, "width": 5} | options
    module = CRD(torch.zeros(2, 4), torch.zeros(2, 3, 2), **options).double()
    module.classes.copy_(CLASSES)
    return module


def batch(*index: int, seed: int) -> dict[str, Tensor]:
    rows = torch.tensor(index)
    ours, theirs = features(len(index), 4, seed=seed), features(len(index), 3, 2, seed=seed + 1)
    return {"student": ours, "teacher": theirs, "index": rows, "labels": CLASSES[rows]}


def watched(module: CRD, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The value, and the negatives that were drawn for it."""
    drawn: list[Tensor] = []
    original = module._drawn
    module._drawn = lambda index: drawn.append(original(index)) or drawn[0]  # pyright: ignore
    value = module(**given)
    module._drawn = original
    return value, drawn[0]


def naive_crd(module: CRD, given: dict[str, Tensor], drawn: Tensor, partitions: list[float] | None) -> Tensor:
    """The definition, from the state before the batch."""
    banks = [module.teacher_bank.tolist(), module.student_bank.tolist()]
    values = [0.0] * len(drawn)
    for side, (layer, of) in enumerate(
        [(module.embed_student, given["student"]), (module.embed_teacher, given["teacher"])]
    ):
        anchors = [unit(row) for row in layer.linear(of.flatten(1)).tolist()]
        for n, (anchor, own) in enumerate(zip(anchors, given["index"].tolist(), strict=True)):
            z = partitions[side] if partitions else 1.0
            u = [math.exp(dot(anchor, banks[side][row]) / 0.07) / z for row in [own, *drawn[n].tolist()]]
            values[n] -= math.log(u[0] / (u[0] + K / N))
            values[n] -= sum(math.log((K / N) / (other + K / N)) for other in u[1:])
    return torch.tensor(values, dtype=torch.float64)


def naive_partitions(module: CRD, given: dict[str, Tensor], drawn: Tensor) -> list[float]:
    found = []
    for layer, of, bank in [
        (module.embed_student, given["student"], module.teacher_bank.tolist()),
        (module.embed_teacher, given["teacher"], module.student_bank.tolist()),
    ]:
        anchors = [unit(row) for row in layer.linear(of.flatten(1)).tolist()]
        rows = torch.cat([given["index"].unsqueeze(1), drawn], 1).tolist()
        u = [math.exp(dot(a, bank[r]) / 0.07) for a, picked in zip(anchors, rows, strict=True) for r in picked]
        found.append(sum(u) / len(u) * N)
    return found


def test_crd_equals_the_loops_and_keeps_its_first_partition() -> None:
    module, partitions = crd(), None
    for turn, given in enumerate([batch(0, 5, 7, seed=20), batch(5, 2, 11, 6, seed=22)]):
        before = {name: value.clone() for name, value in module.state_dict().items()}
        value, drawn = watched(module, given)
        frozen = crd()
        frozen.load_state_dict(before)
        partitions = partitions or naive_partitions(frozen, given, drawn)
        torch.testing.assert_close(value, naive_crd(frozen, given, drawn, partitions), msg=f"turn {turn}")


def test_crd_without_a_partition_is_the_paper_s_text() -> None:
    module, given = crd(partition=False), batch(0, 5, 7, seed=24)
    frozen = crd(partition=False)
    value, drawn = watched(module, given)
    torch.testing.assert_close(value, naive_crd(frozen, given, drawn, None))


def test_crd_updates_its_bank_with_momentum_after_the_loss() -> None:
    module, given = crd(momentum=0.3), batch(3, 8, seed=26)
    old = {name: getattr(module, name).clone() for name in ("student_bank", "teacher_bank")}
    module(**given).sum().backward()  # the bank is changed in place, and the backward pass must not see it
    for bank, layer, of in [
        ("student_bank", module.embed_student, given["student"]),
        ("teacher_bank", module.embed_teacher, given["teacher"]),
    ]:
        new = getattr(module, bank)
        for n, row in enumerate([3, 8]):
            embedding = unit(layer.linear(of.flatten(1))[n].tolist())
            mixed = [0.3 * a + 0.7 * b for a, b in zip(old[bank][row].tolist(), embedding, strict=True)]
            torch.testing.assert_close(new[row], torch.tensor(unit(mixed), dtype=torch.float64))
        others = [row for row in range(N) if row not in (3, 8)]
        assert torch.equal(new[others], old[bank][others])
        assert not new.requires_grad


@pytest.mark.parametrize("other_classes", [True, False])
def test_crd_s_negatives(other_classes: bool) -> None:
    """Uniform over the rows that are allowed: never the example itself, never its class where that is asked."""
    module = crd(negatives=6000, other_classes=other_classes)
    index = torch.tensor([0, 4, 11])
    drawn = module._drawn(index)
    for own, rows in zip(index.tolist(), drawn, strict=True):
        allowed = [r for r in range(N) if (CLASSES[r] != CLASSES[own] if other_classes else r != own)]
        counts = torch.bincount(rows, minlength=N)
        assert counts.nonzero().flatten().tolist() == allowed
        expected = 6000 / len(allowed)
        assert (counts[allowed] - expected).abs().max() < 6 * math.sqrt(expected)
    assert not torch.equal(drawn, module._drawn(index)), "another draw each time"


def test_crd_s_negatives_before_classes_are_known() -> None:
    """An example not seen yet counts as of another class, but a first-seen example is not its own negative."""
    module = crd(negatives=2000)
    module.classes.fill_(-1)
    given = batch(0, 1, 3, seed=28)  # classes 0, 1, 0
    _, drawn = watched(module, given)
    assert sorted(set(drawn[0].tolist())) == [1, 2, *range(4, N)]
    assert sorted(set(drawn[1].tolist())) == [0, *range(2, N)]


def test_crd_draws_on_from_its_state() -> None:
    first, second = crd(), crd()
    first(**batch(0, 1, seed=30))
    torch.manual_seed(99)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    assert torch.equal(first(**batch(2, 4, seed=32)), second(**batch(2, 4, seed=32)))


def test_crd_says_what_is_wrong() -> None:
    given = batch(0, 1, seed=34)
    small, alike = crd(), crd()
    small.classes.resize_(1)
    alike.classes.fill_(0)
    with pytest.raises(StillhouseError, match="example 1 has no row in a bank of 1"):
        small(**given)
    for labels in (None, torch.zeros(2, 3, dtype=torch.long)):
        with pytest.raises(StillhouseError, match="set other_classes: false"):
            crd()(**given | {"labels": labels})
    with pytest.raises(StillhouseError, match="of one class"):
        alike(**given | {"labels": torch.zeros(2, dtype=torch.long)})
    crd(other_classes=False)(**given | {"labels": None})


# --- contrast within a batch -----------------------------------------------------------------


@pytest.mark.parametrize("other_classes", [True, False])
def test_batch_contrast_equals_the_loops(other_classes: bool) -> None:
    torch.manual_seed(1)
    student, teacher = features(6, 4, seed=36), features(6, 3, seed=37)
    labels = torch.tensor([0, 1, 0, 2, 2, 1])
    module = BatchContrast(student, teacher, width=5, temperature=0.3, other_classes=other_classes).double()
    s = [unit(row) for row in module.embed_student.linear(student).tolist()]
    t = [unit(row) for row in module.embed_teacher.linear(teacher).tolist()]
    values = []
    for i in range(6):
        among = [j for j in range(6) if j == i or not other_classes or labels[j] != labels[i]]
        one = [math.exp(dot(s[i], t[j]) / 0.3) for j in among]
        two = [math.exp(dot(t[i], s[j]) / 0.3) for j in among]
        own = math.exp(dot(s[i], t[i]) / 0.3)
        values.append(-math.log(own / sum(one)) - math.log(own / sum(two)))
    value = module(student, teacher, labels=labels if other_classes else None)
    torch.testing.assert_close(value, torch.tensor(values, dtype=torch.float64))


def test_batch_contrast_alone_is_zero() -> None:
    student, teacher = features(3, 4, seed=38).requires_grad_(), features(3, 4, seed=39)
    module = BatchContrast(student, teacher, width=5).double()
    value = module(student, teacher, labels=torch.ones(3, dtype=torch.long))
    torch.testing.assert_close(value, torch.zeros(3, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("build", [crd, lambda: BatchContrast(torch.zeros(2, 4), torch.zeros(2, 3, 2)).double()])
def test_gradients_of_contrast(build: Callable[[], nn.Module]) -> None:
    given = batch(0, 1, 5, seed=40)
    state = build().state_dict()
    if "partitions" in state:  # set by the first batch, and no function of the student after it
        state["partitions"] = torch.tensor([30.0, 50.0], dtype=torch.float64)

    def loss(student: Tensor) -> Tensor:
        module = build()
        module.load_state_dict({name: value.clone() for name, value in state.items()})
        if isinstance(module, CRD):
            return module(**given | {"student": student})
        return module(student, given["teacher"], labels=given["labels"])

    student = given["student"].requires_grad_()
    given["teacher"].requires_grad_()
    module = build()
    module.load_state_dict(state)
    assert torch.autograd.gradcheck(loss, (student,), rtol=1e-3)
    loss(student).sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 1e-3
    assert given["teacher"].grad is None


@pytest.mark.parametrize("kind", [CRD, BatchContrast])
def test_contrast_under_autocast_is_computed_in_fp32(kind: type[nn.Module]) -> None:
    given = {
        name: value.float() if value.is_floating_point() else value for name, value in batch(0, 1, 5, seed=42).items()
    }
    if kind is BatchContrast:
        del given["index"]
    values: list[Tensor] = []
    options: dict[str, Any] = {"examples": N, "negatives": K} if kind is CRD else {}
    for enabled in (False, True):
        torch.manual_seed(4)
        module = kind(given["student"], given["teacher"], **options)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            values.append(module(**given))
    assert torch.equal(*values)


# --- relations between tokens ----------------------------------------------------------------

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def tokens(count: int, width: int, *, seed: int) -> list[Tensor]:
    return [features(2, 4, width, seed=seed + 100 * n) for n in range(count)]


def naive_scores(one: Tensor, two: Tensor, heads: int) -> list[list[Rows]]:
    """[example][head][token][token]"""
    width = one.shape[-1] // heads
    return [
        [
            [
                [dot(a[h * width : (h + 1) * width], b[h * width : (h + 1) * width]) / width**0.5 for b in second]
                for a in first
            ]
            for h in range(heads)
        ]
        for first, second in zip(one.tolist(), two.tolist(), strict=True)
    ]


def naive_softmax(scores: list[float]) -> list[float]:
    weights = [math.exp(s) for s in scores]
    return [w / sum(weights) for w in weights]


def visible(example: int, causal: bool, masked: bool) -> list[tuple[int, list[int]]]:
    """Each token that counts, and the tokens it looks at."""
    length = int(MASK[example].sum()) if masked else 4
    return [(t, list(range(t + 1 if causal else length))) for t in range(length)]


views = pytest.mark.parametrize(("causal", "masked"), [(False, False), (True, False), (False, True), (True, True)])


@views
def test_attention_relations_equal_the_loops(causal: bool, masked: bool) -> None:
    student, teacher = tokens(3, 4, seed=50), tokens(3, 8, seed=51)
    values = []
    for example in range(2):
        value = 0.0
        for a, b in ((0, 1), (2, 2)):
            for h in range(2):
                rows = [naive_scores(side[a], side[b], 2)[example][h] for side in (student, teacher)]
                seen = visible(example, causal, masked)
                for t, among in seen:
                    q, p = (naive_softmax([row[t][u] for u in among]) for row in rows)
                    value += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)) / 2 / len(seen)
        values.append(value)
    mask = MASK if masked else None
    found = attention_relations(student, teacher, heads=2, relations=["qk", "vv"], causal=causal, attention_mask=mask)
    torch.testing.assert_close(found, torch.tensor(values, dtype=torch.float64))


@views
def test_attention_scores_equal_the_loops(causal: bool, masked: bool) -> None:
    student, teacher = tokens(2, 4, seed=52), tokens(2, 8, seed=53)
    values = []
    for example in range(2):
        ours, theirs = (naive_scores(side[0], side[1], 2)[example] for side in (student, teacher))
        squares = [
            (ours[h][t][u] - theirs[h][t][u]) ** 2
            for h in range(2)
            for t, among in visible(example, causal, masked)
            for u in among
        ]
        values.append(sum(squares) / len(squares))
    found = attention_scores(student, teacher, heads=2, causal=causal, attention_mask=MASK if masked else None)
    torch.testing.assert_close(found, torch.tensor(values, dtype=torch.float64))


@views
def test_head_map_equals_the_loops(causal: bool, masked: bool) -> None:
    """Two layers of two heads learn to show four layers of one head."""
    student, teacher = tokens(4, 4, seed=54), tokens(8, 3, seed=55)
    torch.manual_seed(2)
    module = HeadMap(student, teacher, heads=2, teacher_heads=1, causal=causal).double()
    weight = module.align.weight.flatten(1).tolist()
    assert module.align.bias is not None
    bias = module.align.bias.tolist()
    values = []
    for example in range(2):
        maps: list[list[list[float]]] = []
        for side, heads in ((student, 2), (teacher, 1)):
            found = []
            for q, k in zip(side[::2], side[1::2], strict=True):
                for scores in naive_scores(q, k, heads)[example]:
                    seen = visible(example, causal, masked)
                    found.append([p for t, among in seen for p in naive_softmax([scores[t][u] for u in among])])
            maps.append(found)
        value = 0.0
        for n, target in enumerate(maps[1]):
            mixed = [dot(weight[n], list(column)) + bias[n] for column in zip(*maps[0], strict=True)]
            p, q = naive_softmax(target), naive_softmax(mixed)
            value += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        values.append(value)
    found = module(student, teacher, attention_mask=MASK if masked else None)
    torch.testing.assert_close(found, torch.tensor(values, dtype=torch.float64))


def task_filters() -> TaskFilters:
    torch.manual_seed(3)
    return TaskFilters(tokens(2, 3, seed=0), tokens(2, 5, seed=0), classes=3).double()


def test_task_filters_equal_the_loops_and_keep_two_gradients_apart() -> None:
    module, labels = task_filters(), torch.tensor([2, 0])
    student, teacher = tokens(2, 3, seed=56), tokens(2, 5, seed=57)
    values = [0.0, 0.0]
    for n in range(2):
        own, other = module.student_filters[n](student[n]).tolist(), module.teacher_filters[n](teacher[n])
        for b in range(2):
            pairs = [
                (x, y)
                for one, two in zip(own[b], other[b].tolist(), strict=True)
                for x, y in zip(one, two, strict=True)
            ]
            p = naive_softmax(module.heads[n](other[b].mean(0)).tolist())
            values[b] += (sum((x - y) ** 2 for x, y in pairs) / len(pairs) - math.log(p[int(labels[b])])) / 2
    student = [x.requires_grad_() for x in student]
    value = module(student, teacher, labels=labels)
    torch.testing.assert_close(value, torch.tensor(values, dtype=torch.float64))
    teachers_own = [p for part in (module.teacher_filters, module.heads) for p in part.parameters()]
    found = torch.autograd.grad(value.sum(), teachers_own)
    shifted = module([x + 1 for x in student], teacher, labels=labels)
    for one, two in zip(found, torch.autograd.grad(shifted.sum(), teachers_own), strict=True):
        assert torch.equal(one, two), "what the student does teaches the teacher's filter nothing"
    with pytest.raises(StillhouseError, match="one class an example"):
        module(student, teacher, labels=torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(StillhouseError, match="as many on each side"):
        TaskFilters(student, teacher[:1], classes=3)


def head_map() -> HeadMap:
    torch.manual_seed(2)
    return HeadMap(tokens(2, 4, seed=0), tokens(2, 6, seed=0), heads=2, teacher_heads=3, causal=True).double()


TOKENS: dict[str, Callable[[list[Tensor], list[Tensor]], Tensor]] = {
    "relations": lambda s, t: attention_relations([*s, s[0]], [*t, t[0]], heads=2, causal=True, attention_mask=MASK),
    "scores": lambda s, t: attention_scores(s, t, heads=2, causal=True, attention_mask=MASK),
    "head map": lambda s, t: head_map()(s, t, attention_mask=MASK),
    "filters": lambda s, t: filters_of(s, t)(s, t, labels=torch.tensor([1, 0])),
}


def filters_of(student: list[Tensor], teacher: list[Tensor]) -> TaskFilters:
    torch.manual_seed(3)
    return TaskFilters(student, teacher, classes=2).double()


@pytest.mark.parametrize("name", TOKENS)
def test_gradients_between_tokens(name: str) -> None:
    """With padding and a causal mask, where log 0 lurks; equal tokens; and the teacher gets none."""
    student, teacher = tokens(2, 4, seed=58), tokens(2, 6, seed=59)
    student[0][:, 1] = student[0][:, 0]
    own = [x.requires_grad_() for x in student]
    other = [x.requires_grad_() for x in teacher]
    assert torch.autograd.gradcheck(lambda *s: TOKENS[name](list(s), teacher), own)
    TOKENS[name](own, other).sum().backward()
    assert all(x.grad is not None and x.grad.abs().max() > 1e-4 for x in own)
    assert all(x.grad is None for x in other)


@pytest.mark.parametrize("name", ["relations", "scores"])
def test_the_same_tokens_give_zero_and_padding_does_not_count(name: str) -> None:
    same, other = tokens(2, 4, seed=60), tokens(2, 4, seed=61)
    assert TOKENS[name](same, same).abs().max() < 1e-12
    before = TOKENS[name](same, other)
    for side in (same, other):
        for of in side:
            of[1, 2:] = 50.0
    torch.testing.assert_close(TOKENS[name](same, other), before)


@pytest.mark.parametrize("name", ["relations", "scores"])
def test_tokens_in_half_precision_and_under_autocast_are_computed_in_fp32(name: str) -> None:
    student, teacher = ([x.bfloat16() for x in tokens(2, 4, seed=seed)] for seed in (63, 64))
    expected = TOKENS[name]([x.double() for x in student], [x.double() for x in teacher])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = TOKENS[name](student, teacher)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


def test_signals_that_are_no_attention_are_refused() -> None:
    three, two = tokens(3, 4, seed=62), tokens(2, 4, seed=62)
    with pytest.raises(StillhouseError, match=r"\[queries, keys, values\], and 2"):
        attention_relations(two, two, heads=2)
    with pytest.raises(StillhouseError, match="multiple of 3 heads"):
        attention_relations(three, three, heads=3)
    with pytest.raises(StillhouseError, match=r"\[queries, keys\], and 3"):
        attention_scores(three, three, heads=2)
    with pytest.raises(StillhouseError, match="of each layer in turn, and 3"):
        HeadMap(three, two, heads=2, teacher_heads=2)


# --- in a run --------------------------------------------------------------------------------

TERMS: dict[str, dict[str, Any]] = {
    "rkd_distance": {"signal": "features.layers.0"},
    "rkd_angle": {"signal": "features.layers.0"},
    "correlation_congruence": {"signal": "features.layers.0"},
    "crd": {"signal": "features.layers.0", "examples": 1797, "negatives": 64, "width": 8},
    "batch_contrast": {"signal": "features.layers.0", "width": 8},
    "task_filters": {"signal": ["features.layers.0", "features.layers.1"], "classes": 10, "width": 6},
}


def recipe(term: dict[str, Any], **train: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "relations",
            "data": "digits",
            "teacher": {
                "network": {"kind": "mlp", "hidden": [12]},
                "weights": {"kind": "trained", "steps": 1, "batch_size": 8},
            },
            "student": {"network": {"kind": "mlp", "hidden": [7]}},
            "method": {
                "kind": "match",
                "terms": [term, {"signal": "labels", "by": "cross_entropy"}],
            },
            "train": {"steps": 1, "batch_size": 8, "log_every": 1} | train,
            "evaluate": ["accuracy"],
            "control": False,
        }
    )


@pytest.mark.parametrize("by", TERMS)
def test_one_step_of_each_in_a_run(tmp_path: Path, by: str) -> None:
    run = tmp_path / "run"
    distill(recipe({"by": by} | TERMS[by]), out=run, device="cpu", progress=False)
    state = read_summed(run / "stages", "student")
    assert state is not None
    assert set(state["network"]) == {"layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"}
    assert f"/{by}" in (run / "metrics.jsonl").read_text()


ATTENTION = "features.model.layers.{}.self_attn.{}_proj"
LANGUAGE: dict[str, dict[str, Any]] = {
    "attention_relations": {"signal": [ATTENTION.format(0, x) for x in "qkv"], "heads": 4},
    "attention_scores": {"signal": [ATTENTION.format(0, x) for x in "qk"], "heads": 2},
    "head_map": {
        "signal": [ATTENTION.format(0, x) for x in "qk"],
        "teacher_signal": [ATTENTION.format(n, x) for n in range(2) for x in "qk"],
        "heads": 2,
        "teacher_heads": 2,
    },
}


@pytest.mark.parametrize("by", LANGUAGE)
def test_one_step_of_each_on_a_language_model(tmp_path: Path, by: str) -> None:
    draw = random.Random(0)
    words = ["copper", "kettle", "barley", "water", "smoke", "cask", "peat", "spirit"]
    (tmp_path / "notes.txt").write_text("\n\n".join(" ".join(draw.choices(words, k=30)) for _ in range(100)))
    train = {"steps": 1, "batch_size": 4, "log_every": 1}
    small, large = ({"kind": "llama", "width": 8 * n, "layers": n, "heads": 2} for n in (1, 2))
    chosen = {
        "name": "tokens",
        "data": {"kind": "text", "path": str(tmp_path / "notes.txt"), "block": 16, "vocabulary": 280},
        "teacher": {"network": large, "weights": {"kind": "trained", **train}},
        "student": {"network": small},
        "method": {"kind": "match", "terms": [{"by": by, "causal": True} | LANGUAGE[by]]},
        "train": train,
        "evaluate": ["perplexity"],
        "control": False,
    }
    distill(Recipe.model_validate(chosen), out=tmp_path / "run", device="cpu", progress=False)
    (line,) = [
        losses
        for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        for name, losses in json.loads(text)["losses"].items()
        if name.endswith(by)
    ]
    assert line > 0
    state = read_summed(tmp_path / "run" / "stages", "student")
    assert state is not None
    assert not any("align" in name for name in state["network"])


def test_a_resumed_crd_run_ends_where_the_straight_one_does(tmp_path: Path) -> None:
    """The bank, its classes, its partition and the draws to come are all in the checkpoint."""
    chosen = recipe({"by": "crd"} | TERMS["crd"], steps=9, checkpoint_steps=2, ema=0.9)
    distill(chosen, out=tmp_path / "straight", device="cpu", progress=False)
    with pytest.raises(Interrupted):
        distill(chosen, out=tmp_path / "resumed", device="cpu", progress=False, listeners=[StopAfter(4)])
    resume(tmp_path / "resumed", progress=False)
    ours, theirs = (read_summed(tmp_path / run / "stages", "student") for run in ("resumed", "straight"))
    assert ours is not None
    assert theirs is not None
    assert all(torch.equal(ours["network"][name], value) for name, value in theirs["network"].items())
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("resumed", "straight")]
    assert [json.loads(line)["losses"] for line in lines[0]] == [json.loads(line)["losses"] for line in lines[1]]


class StopAfter(Listener):
    """Asks the run to stop, as Ctrl-C does, at a checkpoint of the student's stage."""

    def __init__(self, step: int) -> None:
        self.step = step

    def heard(self, event: object) -> None:
        if isinstance(event, Saved) and event.stage == "student" and event.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)
