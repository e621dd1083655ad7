"""Masked specialists and their router: the three phases, who changes in each, and what is routed where."""

from __future__ import annotations

import copy

import pytest
import torch

from stillhouse.engine.contracts import Batch, Facts, Losses
from stillhouse.engine.ledger import Ledger
from stillhouse.methods.multi_kinds import SpecialisedTeachers
from stillhouse.methods.roles import Roles
from stillhouse.methods.specialised_teachers import unbalanced
from stillhouse.networks.kinds import MLP
from stillhouse.teachers.ensemble import Ensemble
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts("classification", (1, 4, 4), 3)


def batch(size: int = 24) -> Batch:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(size, 1, 4, 4, generator=rng)
    return {"image": images, "second_image": 1 - images, "labels": torch.randint(3, (size,), generator=rng)}


def method(**options):
    torch.manual_seed(0)
    student = Model(MLP(hidden=[8]).build(FACTS), ImageView(Image()))
    members = {
        "other": Model(MLP(hidden=[10, 6]).build(FACTS), ImageView(Image(field="second_image"))),
        "both": Model(MLP(hidden=[10, 6]).build(FACTS), ImageView(Image())),
    }
    kind = SpecialisedTeachers(**({"taps": ["layers.1", "layers.3"]} | options))
    return kind.build(Roles(student, Ensemble(members), FACTS, batch(4)))


def total(losses: Losses) -> torch.Tensor:
    return torch.stack([loss.weight * loss.values.mean() for loss in losses.values()]).sum()


def test_phases_follow_the_progress() -> None:
    built = method(phases=(0.3, 0.2))
    for progress, player, function in (
        (0.0, "student", built.update_together),
        (0.31, "masks", built.update_masks),
        (0.5, "student", built.update_routed),
    ):
        built.progress = progress
        (turn,) = built.schedule()
        assert (turn.player, turn.losses) == (player, function)


def test_a_specialist_is_the_teacher_with_one_layer_masked() -> None:
    built, given = method(), batch()
    frozen = built.teacher.members["other"].network
    x = given["second_image"].flatten(1)
    hidden = frozen.layers[1](frozen.layers[0](x))
    first = built.masks.module[0]
    expected = frozen.layers[4](frozen.layers[3](frozen.layers[2](hidden * first(hidden))))
    torch.testing.assert_close(built.specialists(given)[0], expected)
    plain = built.teacher.members["other"].signals(given)["logits"]
    torch.testing.assert_close(frozen(given["second_image"]), plain)  # the hook is gone
    assert len(built.specialists(given)) == 4


def test_what_specialists_cost_is_counted() -> None:
    built, given, ledger = method(), batch(), Ledger()
    with ledger.watching(dict(built.teacher.members)):
        built.specialists(given)
    assert {name: row["examples"] for name, row in ledger.roles.items()} == {"other": 48, "both": 48}  # two taps each


def test_masks_bring_the_specialists_to_the_student_and_nothing_else_moves() -> None:
    built, given = method(), batch()
    before = copy.deepcopy(built.teacher.state_dict()), copy.deepcopy(built.student.module.state_dict())
    assert built.masks.module[0](torch.randn(5, 10)).shape == (5, 10)
    optimizer = torch.optim.Adam(built.masks.parameters(), 0.05)
    course = []
    for _ in range(60):
        loss = total(built.update_masks(given, torch.Generator()))
        course.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert course[-1] < 0.95 * course[0]
    for kept, module in zip(before, (built.teacher, built.student.module), strict=True):
        assert all(torch.equal(kept[name], value) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in built.student.parameters())


def test_the_routed_specialist_alone_teaches() -> None:
    built, given = method(top=1, temperature=2.0, weight=0.5, balance=0.1), batch()
    losses = built.update_routed(given, torch.Generator())
    logits = built.student.module.signals(given)["logits"]
    weights = built.student.parts["router"](logits).softmax(-1)
    chosen = weights.argmax(1)
    answers = torch.stack(built.specialists(given), 1)[torch.arange(24), chosen]
    p = (answers / 2).softmax(-1)
    expected = 4 * (p * (p.log() - (logits / 2).log_softmax(-1))).sum(-1)
    torch.testing.assert_close(losses["specialists"].values, expected)
    assert losses["specialists"].weight == 0.5
    shares = [float(value) for name, value in losses.notes.items() if name.startswith("routed/")]
    assert shares == [pytest.approx(float((chosen == n).float().mean())) for n in range(4)]


def test_balance_is_zero_where_all_are_used_alike() -> None:
    assert float(unbalanced(torch.tensor([[0.9, 0.1], [0.1, 0.9]]))) == pytest.approx(0, abs=1e-6)
    uneven = torch.tensor([[0.9, 0.1], [0.7, 0.3]], dtype=torch.float64)
    expected = 0.5 * torch.log(torch.tensor(0.5 / 0.8)) + 0.5 * torch.log(torch.tensor(0.5 / 0.2))
    assert float(unbalanced(uneven)) == pytest.approx(float(expected))


def test_the_router_learns_from_the_balance() -> None:
    built, given = method(top=2), batch()
    total(built.update_routed(given, torch.Generator())).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in built.student.parts["router"].parameters())
    assert all(p.grad is None for p in built.masks.parameters())
