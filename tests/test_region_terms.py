"""Contrast of regions and graphs of tokens, against loops in float64."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from stillhouse.errors import StillhouseError
from stillhouse.objectives import relation_kinds
from stillhouse.objectives.contrast import RegionContrast
from stillhouse.objectives.token_graph import token_graph


def maps(count: int, channels: int, size: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, size, size, generator=rng, dtype=torch.float64)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def edge_kl(student: list[float], teacher: list[float], temperature: float) -> float:
    p, q = ([math.exp(s / temperature) for s in side] for side in (teacher, student))
    p, q = ([x / sum(side) for x in side] for side in (p, q))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("classes", [None, 3])
def test_region_contrast_equals_the_loops_over_windows(classes: int | None) -> None:
    student, teacher = maps(4, 3, 3, seed=1), maps(4, 5, 3, seed=2)
    labels = torch.tensor([0, 1, 0, 2])
    torch.manual_seed(0)
    module = RegionContrast(student, teacher, windows=(0, 2), classes=classes, width=6, temperature=0.5).double()
    seen: set[tuple[int, ...]] = set()
    values, contrasts = [], cast(Any, list(module.contrasts))
    for i in range(4):
        sizes = []
        for window, contrast in zip((0, 2), contrasts, strict=True):
            places = [(slice(None), slice(None))]
            if window:
                places = [(slice(r, r + 2), slice(c, c + 2)) for r in range(2) for c in range(2)]
            one = []
            for rows, columns in places:
                s, t = (x[:, :, rows, columns].mean((2, 3)) for x in (student, teacher))
                shown = labels if module.classifier is None else module.classifier(t).argmax(1)
                seen.add(tuple(shown.tolist()))
                s = torch.stack([v / v.norm() for v in contrast.embed_student.linear(s)])
                t = torch.stack([v / v.norm() for v in contrast.embed_teacher.linear(t)])
                among = [j for j in range(4) if j == i or shown[j] != shown[i]]
                positive = float(s[i] @ t[i]) / 0.5
                to_teacher = math.log(sum(math.exp(float(s[i] @ t[j]) / 0.5) for j in among))
                to_student = math.log(sum(math.exp(float(t[i] @ s[j]) / 0.5) for j in among))
                one.append(to_teacher + to_student - 2 * positive)
            sizes.append(sum(one) / len(one))
        values.append(sum(sizes) / 2)
        if module.classifier is not None:
            scores = module.classifier(teacher[i].mean((1, 2)))
            values[-1] -= math.log(float(scores[labels[i]].exp() / scores.exp().sum()))
    assert len(seen) == 1 if classes is None else len(seen) > 1, "windows of an image are of different classes"
    found = module(student, teacher, labels=labels)
    torch.testing.assert_close(found, torch.tensor(values, dtype=torch.float64))


def test_regions_are_compared_at_the_smaller_resolution() -> None:
    student, teacher = maps(3, 2, 4, seed=3), maps(3, 2, 2, seed=4)
    module = RegionContrast(student, teacher, windows=(1,), width=4, other_classes=False).double()
    pooled = student.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))
    torch.testing.assert_close(module(student, teacher), module(pooled, teacher))


def test_the_classifier_learns_from_the_labels_alone() -> None:
    student, teacher = maps(3, 2, 2, seed=9).requires_grad_(), maps(3, 3, 2, seed=10).requires_grad_()
    module = RegionContrast(student, teacher, windows=(0, 1), classes=3, width=4).double()
    assert module.classifier is not None
    labels = torch.tensor([0, 1, 2])
    module(student, teacher, labels=labels).sum().backward()
    found = module.classifier.weight.grad
    vectors = teacher.detach().mean((2, 3))
    wanted = (module.classifier(vectors).softmax(1) - torch.eye(3, dtype=torch.float64)).T @ vectors
    torch.testing.assert_close(found, wanted.detach())
    assert teacher.grad is None
    with pytest.raises(StillhouseError, match="one class an example"):
        module(student, teacher)
    with pytest.raises(ValidationError, match="needs other_classes: true"):
        relation_kinds.RegionContrast(signal="features.bn3", classes=3, other_classes=False)


def test_token_graph_equals_the_loops() -> None:
    student, teacher = maps(3, 4, 2, seed=5), maps(3, 6, 2, seed=6)
    s, t = (x.flatten(2).transpose(1, 2).flatten(0, 1) for x in (student, teacher))  # [12, D]
    rows = []
    for n in range(12):
        others = sorted((m for m in range(12) if m != n), key=lambda m: -cosine(t[n], t[m]))[:5]
        value = edge_kl([cosine(s[n], s[m]) for m in others], [cosine(t[n], t[m]) for m in others], 0.2)
        own = range(n // 4 * 4, n // 4 * 4 + 4)
        value += 0.5 * edge_kl([cosine(s[n], s[m]) for m in own], [cosine(t[n], t[m]) for m in own], 0.2)
        rows.append(value)
    expected = torch.tensor(rows, dtype=torch.float64).view(3, 4).mean(1)
    found = token_graph(student, teacher, neighbours=5, temperature=0.2, contextual=0.5)
    torch.testing.assert_close(found, expected)
    sequence = token_graph(s.view(3, 4, 4), t.view(3, 4, 6), neighbours=5, temperature=0.2, contextual=0.5)
    torch.testing.assert_close(sequence, expected)


def test_the_nodes_of_the_graph_are_drawn_from_the_batch() -> None:
    student, teacher = maps(3, 4, 2, seed=5), maps(3, 6, 2, seed=6)
    s, t = (x.flatten(2).transpose(1, 2).flatten(0, 1) for x in (student, teacher))  # [12, D]
    seen = set()
    for draw in range(5):
        torch.manual_seed(draw)
        found = token_graph(student, teacher, neighbours=3, temperature=0.2, contextual=0.0, sampled=5)
        torch.manual_seed(draw)
        nodes = torch.randperm(12)[:5].tolist()
        seen.add(tuple(nodes))
        expected = torch.zeros(3, dtype=torch.float64)
        for n in nodes:
            others = sorted((m for m in nodes if m != n), key=lambda m: -cosine(t[n], t[m]))[:3]
            value = edge_kl([cosine(s[n], s[m]) for m in others], [cosine(t[n], t[m]) for m in others], 0.2)
            expected[n // 4] += value * 3 / 5  # so that the mean over three images is that over five nodes
        torch.testing.assert_close(found, expected)
    assert len(seen) == 5
    whole = token_graph(student, teacher, neighbours=3, sampled=12)
    torch.testing.assert_close(whole, token_graph(student, teacher, neighbours=3))


def test_a_turned_copy_has_the_same_graph() -> None:
    teacher = maps(3, 6, 2, seed=7)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64)).Q
    student = torch.einsum("bchw,cd->bdhw", 3 * teacher, turn)
    torch.testing.assert_close(token_graph(student, teacher), torch.zeros(3, dtype=torch.float64), atol=1e-10, rtol=0)


@pytest.mark.parametrize("term", ["graph", "regions"])
def test_gradients_reach_the_student_alone(term: str) -> None:
    student, teacher = maps(3, 2, 2, seed=9).requires_grad_(), maps(3, 3, 2, seed=10).requires_grad_()
    module = RegionContrast(student, teacher, windows=(0, 1), width=3, other_classes=False).double()
    loss: Any = module if term == "regions" else (lambda s, t: token_graph(s, t, neighbours=3))
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,), rtol=1e-3)
    loss(student, teacher).sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 1e-4
    assert teacher.grad is None


def test_signals_without_places_are_refused() -> None:
    flat = torch.zeros(3, 4)
    with pytest.raises(StillhouseError, match="feature maps"):
        RegionContrast(flat, flat)
    with pytest.raises(StillhouseError, match="window of 4 does not fit maps of 2"):
        RegionContrast(maps(2, 2, 2, seed=0), maps(2, 2, 2, seed=0), windows=(4,))
    with pytest.raises(StillhouseError, match="as many tokens"):
        token_graph(flat, flat)
