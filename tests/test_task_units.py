"""Units of a teacher that matter to the task, and what a student is held to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.methods.feature_kinds import TaskUnits as Kind
from stillhouse.methods.roles import Roles
from stillhouse.methods.task_units import TaskUnits, relevance
from stillhouse.networks.kinds import MLP, ConvNet
from stillhouse.objectives.features import unit_correlation
from stillhouse.sources.kinds import Digits
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts("classification", (1, 8, 8), 10)
DATA = Digits(shift=0, limit=100).build()
BATCH = DATA.train.fetch(torch.arange(30), None)
TERMS = [{"signal": "features.layers.1", "by": "mse"}]


def model(kind: Any, seed: int) -> Model:
    torch.manual_seed(seed)
    return Model(kind.build(FACTS), ImageView(Image()))


def method(terms: Any = TERMS, *, width: int = 6, **words: Any) -> TaskUnits:
    teacher = Frozen(model(MLP(hidden=[20]), 1))
    example = DATA.train.fetch(torch.arange(4), None)
    kind = Kind.model_validate({"terms": terms, **words})
    built = kind.build(Roles(model(MLP(hidden=[width]), 2), teacher, FACTS, example, None, DATA.train))
    assert isinstance(built, TaskUnits)
    return built


def by_hand(teacher: Frozen) -> torch.Tensor:
    """d log p(y) / d h = W^T (onehot - p), by one example after another in float64."""
    layers = teacher.network.layers
    total = torch.zeros(20, dtype=torch.float64)
    for image, label in zip(BATCH["image"].double(), BATCH["labels"], strict=True):
        h = (layers[0].weight.double() @ image.flatten() + layers[0].bias.double()).relu()
        p = (layers[2].weight.double() @ h + layers[2].bias.double()).softmax(0)
        total += (layers[2].weight.double().T @ (nn.functional.one_hot(label, 10) - p)).abs()
    return total / 30


def test_scores_are_the_mean_size_of_the_gradient() -> None:
    teacher = Frozen(model(MLP(hidden=[20]), 1))
    found = relevance(teacher, "features.layers.1", BATCH)
    torch.testing.assert_close(found.double(), by_hand(teacher), rtol=1e-5, atol=1e-7)
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_the_student_is_held_to_the_units_with_the_highest_scores() -> None:
    built = method()
    teacher = built.teacher.teacher  # type: ignore[union-attr]
    whole = DATA.train.fetch(torch.arange(100), None)
    units = relevance(teacher, "features.layers.1", whole).topk(6).indices.sort().values
    assert torch.equal(built.units["features.layers.1"], units)
    theirs = teacher.signals(BATCH, ["features.layers.1"])["features.layers.1"][:, units]
    ours = built.student.module.signals(BATCH, ["features.layers.1"])["features.layers.1"]
    (loss,) = built.update_student(BATCH, torch.Generator()).values()
    torch.testing.assert_close(loss.values, (ours - theirs).square().mean(1))
    assert not list(built.student.parts.parameters())


def test_random_units_are_others_and_maps_are_cut_by_channel() -> None:
    assert not torch.equal(method(choose="random").units["features.layers.1"], method().units["features.layers.1"])
    teacher, student = Frozen(model(ConvNet(width=6), 1)), model(ConvNet(width=2), 2)
    kind = Kind.model_validate({"terms": [{"signal": "features.bn3", "by": "mse"}, "kl"]})
    built = kind.build(Roles(student, teacher, FACTS, BATCH, None, DATA.train))
    assert built.teacher.signals(BATCH, ["features.bn3"])["features.bn3"].shape == (30, 8, 2, 2)
    assert len(built.update_student(BATCH, torch.Generator())) == 2


def test_what_leaves_nothing_to_choose_is_told() -> None:
    with pytest.raises(StillhouseError, match="needs a term on `features"):
        method(terms=["kl"])
    with pytest.raises(StillhouseError, match="20 units and the student's 64"):
        method(width=64)


def test_unit_correlations_are_those_of_numpy() -> None:
    rng = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(40, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    expected = [1 - torch.corrcoef(torch.stack([ours[:, d], theirs[:, d]]))[0, 1] for d in range(5)]
    torch.testing.assert_close(unit_correlation(ours, theirs), torch.stack(expected))
    torch.testing.assert_close(unit_correlation(3 * theirs + 2, theirs), torch.zeros(5, dtype=torch.float64))
    ours.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: unit_correlation(x, theirs), (ours,))
