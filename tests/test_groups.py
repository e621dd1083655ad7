"""Who learned what: by class, by what the teacher knows, by a field of the data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.errors import StillhouseError
from stillhouse.evaluation import classification, statistics
from stillhouse.evaluation.answers import Answers
from stillhouse.evaluation.groups import EXTREMES, group_effects, what_the_teacher_knows
from stillhouse.evaluation.kinds import Agreement, GroupEffects
from test_evaluation import CLASSES, arm, context, random_answers


class Fixed(nn.Module):
    """Answers with logits that were written down, by the position in the split that an image's first value tells."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits[image.flatten(1)[:, 0].long()]


def split(labels: list[int], names: tuple[str, ...] = (), **guesses: list[int]):
    """A split whose arms make these guesses, with certainty that grows along the split."""
    count, classes = len(labels), max(max(labels), *(max(g) for g in guesses.values())) + 1
    positions = torch.arange(count).float().unsqueeze(1).expand(count, classes)
    sure = torch.linspace(1, 4, count).unsqueeze(1)
    arms = [arm(name, Fixed(sure * torch.eye(classes)[guess])) for name, guess in guesses.items()]
    return context(positions, torch.tensor(labels), *arms, names=names)


def test_the_worst_class_and_the_effect_by_class():
    shared = split([0, 0, 1, 1, 2, 2], names=("a", "b", "c"), student=[0, 0, 1, 0, 2, 2], control=[0, 1, 1, 1, 0, 0])
    found = group_effects(GroupEffects(), shared.arms["student"], shared)
    assert found.metrics == {"worst_class": 0.5}
    (figure,) = found.figures  # there is no teacher
    assert dict(zip(figure["labels"], figure["difference"], strict=True)) == {"c": 1.0, "a": 0.5, "b": -0.5}
    assert figure["labels"] == ["c", "a", "b"]  # what gained most comes first
    assert figure["count"] == [2, 2, 2]
    assert all(
        low < d < high or d in (low, high)
        for low, d, high in zip(*(figure[k] for k in ("low", "difference", "high")), strict=True)
    )
    assert group_effects(GroupEffects(), shared.arms["control"], shared).figures == []


def test_groups_by_what_the_teacher_knows():
    shared = split(
        [0, 0, 0, 1, 1, 1], teacher=[0, 0, 1, 0, 1, 1], student=[0, 1, 0, 1, 1, 1], control=[1, 1, 1, 1, 1, 1]
    )
    figure = group_effects(GroupEffects(), shared.arms["student"], shared).figures[1]
    differences = dict(zip(figure["labels"], figure["difference"], strict=True))
    assert differences == {
        "teacher right": 0.25,  # examples 0, 1, 4, 5: student right on 3, control on 2
        "teacher wrong": 0.5,  # examples 2, 3: student on both, control on one
        "least sure third": 0.5,
        "middle third": 0.5,
        "surest third": 0.0,
    }
    assert figure["count"] == [4, 2, 2, 2, 2]


def test_the_thirds_hold_every_example_once():
    logits, labels = random_answers(100)
    found = what_the_teacher_knows(Answers(logits, labels))
    thirds = torch.stack([found[name] for name in ("least sure third", "middle third", "surest third")])
    assert thirds.sum(0).eq(1).all()
    sure = logits.softmax(-1).amax(-1)
    assert sure[thirds[0]].max() <= sure[thirds[1]].min()
    assert sure[thirds[1]].max() <= sure[thirds[2]].min()
    assert (found["teacher right"] ^ found["teacher wrong"]).all()


def test_groups_by_a_field_of_the_data():
    shared = split([0, 1, 0, 1], student=[0, 1, 0, 1], control=[0, 1, 1, 0])
    figure = group_effects(GroupEffects(fields=["labels"]), shared.arms["student"], shared).figures[-1]
    assert dict(zip(figure["labels"], figure["difference"], strict=True)) == {"labels 0": 0.5, "labels 1": 0.5}
    with pytest.raises(StillhouseError, match=r"the field 'speaker'.*those that are: index, labels"):
        group_effects(GroupEffects(fields=["speaker"]), shared.arms["student"], shared)
    with pytest.raises(StillhouseError, match="the field 'image'"):
        group_effects(GroupEffects(fields=["image"]), shared.arms["student"], shared)


def test_of_a_hundred_classes_the_extremes_are_shown():
    labels = [c for c in range(100) for _ in range(2)]
    control = [(c + 1) % 100 if c < 50 else c for c in labels]
    student = [c if c < 20 else (c + 1) % 100 if c >= 90 else k for c, k in zip(labels, control, strict=True)]
    figure = group_effects(GroupEffects(), *_student(split(labels, student=student, control=control))).figures[0]
    assert figure["groups"] == 100
    assert figure["difference"] == [1.0] * EXTREMES + [0.0] * 2 + [-1.0] * 10


def _student(shared):
    return shared.arms["student"], shared


def test_agreement_where_the_teacher_is_right_and_where_it_is_wrong():
    shared = split([0, 0, 0, 1, 1], teacher=[0, 0, 0, 0, 2], student=[0, 0, 1, 0, 1])
    found = classification.agreement(Agreement(), *_student(shared))
    assert found.metrics["agreement_right"] == pytest.approx(2 / 3)
    assert found.metrics["agreement_wrong"] == 0.5  # one of the teacher's two mistakes is shared
    assert found.per_example["agreement_wrong"] == [1.0, 0.0]
    never_wrong = split([0, 1], teacher=[0, 1], student=[0, 0])
    assert "agreement_wrong" not in classification.agreement(Agreement(), *_student(never_wrong)).metrics


def test_both_agreements_weighted_are_the_whole_one():
    logits, labels = random_answers()
    student, teacher = arm("student"), arm("teacher", nn.Sequential(nn.Flatten(), nn.Linear(CLASSES, CLASSES)))
    found = classification.agreement(Agreement(), student, context(logits, labels, student, teacher))
    parts = [found.per_example[name] for name in ("agreement_right", "agreement_wrong")]
    assert sum(map(len, parts)) == len(labels)
    assert sum(map(sum, parts)) / len(labels) == pytest.approx(found.metrics["agreement"])


def test_interval_for_paired_shares_by_hand():
    """8 pairs: 3 gained, none lost: p = 4/10, q = 1/10; 0.3 +- 1.96 sqrt((0.5 - 0.09) / 10)."""
    found = statistics.paired_shares_interval([1.0] * 5 + [0.0] * 3, [1.0, 1.0, 0.0, 0.0, 0.0] + [0.0] * 3)
    reach = 1.959964 * math.sqrt(0.041)
    assert found == pytest.approx((3 / 8, 0.3 - reach, 0.3 + reach), rel=1e-6)
    same = statistics.paired_shares_interval([1.0] * 20, [1.0] * 20)
    assert same.mean == 0
    assert same.low is not None
    assert same.high is not None
    assert same.low == pytest.approx(-same.high)
    assert same.high > 0.05  # no pair that differs is not certainty
    with pytest.raises(ValueError, match="2 and 1"):
        statistics.paired_shares_interval([1.0, 0.0], [1.0])
    assert statistics.paired_shares_interval([], [])[1:] == (None, None)


def test_interval_for_paired_shares_covers_the_truth_in_small_groups():
    """30 pairs, gained with 0.10 and lost with 0.04: 1000 experiments, so 95 % - 2.1 (3 se) at least."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        luck = rng.random(30)
        a, b = (luck < 0.8).astype(float), ((luck < 0.7) | (luck > 0.96)).astype(float)
        low, high = statistics.paired_shares_interval(a.tolist(), b.tolist())[1:]
        assert low is not None
        assert high is not None
        hits += low <= 0.06 <= high
    assert hits / 1000 >= 0.929
