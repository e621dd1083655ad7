"""Which teachers count: the furthest always, the others by chance, and by how much a step is divided."""

from __future__ import annotations

import torch
from torch import nn

from stillhouse.engine.contracts import Batch, Facts
from stillhouse.methods.multi_kinds import TeacherDropping
from stillhouse.methods.roles import Roles
from stillhouse.methods.teacher_dropping import kept
from stillhouse.networks.kinds import MLP
from stillhouse.objectives.feature_kinds import LadderProjector
from stillhouse.objectives.kinds import KL
from stillhouse.teachers.ensemble import Ensemble
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts("classification", (1, 4, 4), 4)


def batch(size: int) -> Batch:
    rng = torch.Generator().manual_seed(0)
    return {"image": torch.rand(size, 1, 4, 4, generator=rng), "labels": torch.zeros(size, dtype=torch.long)}


def members(count: int = 3) -> Ensemble:
    torch.manual_seed(1)
    built = {f"t{n}": Model(MLP(hidden=[6]).build(FACTS), ImageView(Image())) for n in range(count)}
    for model in built.values():
        for module in model.network.modules():
            if isinstance(module, nn.Linear):
                module.weight.data.mul_(6)
    return Ensemble(built)


def test_the_largest_always_counts_and_the_others_as_often_as_asked() -> None:
    rng = torch.Generator().manual_seed(0)
    values = torch.rand(20_000, 3, generator=rng)
    keep = kept(values, 0.3, rng)
    largest = values.argmax(1, keepdim=True)
    assert (keep.gather(1, largest) == 1).all()
    others = keep.scatter(1, largest, torch.nan)
    assert abs(others.nanmean() - 0.7) < 0.01
    assert (kept(values, 1.0, rng).sum(1) == 1).all()
    assert (kept(values, 0.0, rng) == 1).all()


def test_a_step_is_the_sum_of_what_counts_over_its_number() -> None:
    teacher = members()
    terms = [KL(teacher_signal=f"t{n}.logits") for n in range(3)]
    torch.manual_seed(0)
    student = Model(MLP(hidden=[8]).build(FACTS), ImageView(Image()))
    given = batch(16)
    method = TeacherDropping(terms=terms, drop=1.0).build(Roles(student, teacher, FACTS, batch(4)))
    losses = method.update_student(given, torch.Generator().manual_seed(0))
    (name,) = losses
    loss = losses[name]
    logits = student.signals(given)["logits"].double()
    found = teacher.signals(given, [f"t{n}.logits" for n in range(3)])
    each = []
    for n in range(3):
        p = found[f"t{n}.logits"].double().softmax(-1)
        each.append((p * (p.log() - logits.log_softmax(-1))).sum(-1))
    worst = torch.stack(each, 1).max(1).values
    assert loss.where is not None
    engine = (loss.values * loss.where).sum() / loss.where.sum()
    torch.testing.assert_close(engine.double(), worst.mean(), rtol=1e-5, atol=1e-6)
    shares = [losses.notes[f"logits/kl{'' if n == 0 else f'-{n + 1}'}/kept"] for n in range(3)]
    assert abs(sum(float(share) for share in shares) - 1) < 1e-6


def test_projectors_of_all_teachers_are_trained() -> None:
    terms = [
        LadderProjector(signal=["features.layers.1"], teacher_signal=f"t{n}.features.layers.1", hidden=5)
        for n in range(2)
    ]
    torch.manual_seed(0)
    student = Model(MLP(hidden=[8]).build(FACTS), ImageView(Image()))
    method = TeacherDropping(terms=terms).build(Roles(student, members(2), FACTS, batch(4)))
    losses = method.update_student(batch(64), torch.Generator().manual_seed(0))
    (loss,) = losses.values()
    (loss.values * loss.where).sum().backward()
    assert len(method.student.parts) == 2
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.student.parts.parameters())
