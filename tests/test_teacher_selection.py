"""The policy that picks teachers: what its gradient estimates, who changes when, what it learns."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Facts
from stillhouse.errors import StillhouseError
from stillhouse.methods.multi_kinds import TeacherSelection
from stillhouse.methods.roles import Roles
from stillhouse.methods.teacher_selection import log_probability, reinforce, states_of
from stillhouse.networks.kinds import MLP
from stillhouse.teachers.ensemble import Ensemble
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts("classification", (1, 4, 4), 4)
PLAIN = ImageView(Image())


class Oracle(nn.Module):
    """Names the class written into the first pixels, or, off by one, always a wrong one."""

    def __init__(self, off: int) -> None:
        super().__init__()
        self.off = off

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 6 * image.flatten(1)[:, :4].roll(self.off, 1)


def batch(size: int = 32, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (size,), generator=rng)
    images = 0.1 * torch.rand(size, 1, 4, 4, generator=rng)
    images.view(size, -1)[:, :4] = functional.one_hot(labels, 4).float()
    return {"image": images, "labels": labels, "index": torch.arange(size)}


def selection(**options):
    torch.manual_seed(0)
    student = Model(MLP(hidden=[8]).build(FACTS), PLAIN)
    teacher = Ensemble({"right": Model(Oracle(0), PLAIN), "wrong": Model(Oracle(1), PLAIN)})
    return TeacherSelection(**options).build(Roles(student, teacher, FACTS, batch(4)))


def test_log_probability_is_that_of_independent_picks() -> None:
    logits = torch.tensor([[0.3, -1.2, 2.0]], dtype=torch.float64)
    chance = 1 / (1 + (-logits).exp())
    total = 0.0
    for picks in itertools.product([0.0, 1.0], repeat=3):
        picked = torch.tensor([picks], dtype=torch.float64)
        expected = (chance * picked + (1 - chance) * (1 - picked)).prod()
        torch.testing.assert_close(log_probability(logits, picked).exp().squeeze(), expected)
        total += float(expected)
    assert total == pytest.approx(1)


def test_reinforce_estimates_the_gradient_of_the_expected_reward() -> None:
    """Against the exact expectation over the four actions of two teachers; a constant baseline changes nothing."""
    logits = torch.tensor([0.4, -0.7], dtype=torch.float64, requires_grad=True)
    rewards = {(0.0, 0.0): -1.0, (0.0, 1.0): 0.5, (1.0, 0.0): 2.0, (1.0, 1.0): -0.3}
    actions = torch.tensor(list(rewards), dtype=torch.float64)
    reward = torch.tensor(list(rewards.values()), dtype=torch.float64)
    chances = log_probability(logits.expand(4, 2), actions).exp()
    (exact,) = torch.autograd.grad((chances * reward).sum(), logits)
    drawn = torch.multinomial(chances.detach(), 200_000, replacement=True, generator=torch.Generator().manual_seed(1))
    for baseline in (0.0, 1.5):
        log_pi = log_probability(logits.expand(len(drawn), 2), actions[drawn])
        (found,) = torch.autograd.grad(reinforce(log_pi, reward[drawn] - baseline).mean(), logits)
        torch.testing.assert_close(-found, exact, atol=0.01, rtol=0)


def test_state_holds_the_example_the_answer_and_the_teachers_loss() -> None:
    answers = torch.randn(3, 2, 4)
    labels = torch.tensor([0, 3, 1])
    seen = torch.randn(3, 5)
    states = states_of(seen, answers, labels)
    assert states.shape == (3, 2, 5 + 4 + 1)
    torch.testing.assert_close(states[1, 0, 5:9], answers[1, 0].softmax(-1))
    torch.testing.assert_close(states[1, 1, 9], -answers[1, 1].log_softmax(-1)[3])
    assert torch.equal(states[:, 0, :5], seen)
    assert torch.equal(states[:, 1, :5], seen)


def test_the_student_follows_the_picked_teachers_alone() -> None:
    method = selection(temperature=1.0)
    given = batch()
    method.update_student(given, torch.Generator().manual_seed(0))
    logits = method.student.module.signals(given)["logits"]
    right, wrong = (m.signals(given)["logits"] for m in method.teacher.members.values())

    def kl(teacher: torch.Tensor) -> torch.Tensor:
        p = teacher.softmax(-1)
        return (p * (p.log() - logits.log_softmax(-1))).sum(-1)

    for picks, expected in (
        ((1.0, 0.0), kl(right)),
        ((0.0, 1.0), kl(wrong)),
        ((1.0, 1.0), (kl(right) + kl(wrong)) / 2),
        ((0.0, 0.0), (kl(right) + kl(wrong)) / 2),
    ):
        method._picked = torch.tensor(picks).expand(len(logits), 2)
        torch.testing.assert_close(method._divergence(logits), expected)


def test_the_policy_learns_from_the_student_whom_to_believe() -> None:
    method = selection()
    rng = torch.Generator().manual_seed(0)
    optimizers = {name: torch.optim.Adam(p.parameters(), 0.02) for name, p in method.players().items()}
    chances = []
    for step in range(150):
        given = batch(seed=step)
        for turn in method.schedule():
            losses = turn.losses(given, rng)
            own = method.players()[turn.player].parameters()
            total = torch.stack([loss.weight * loss.values.mean() for loss in losses.values()]).sum()
            for parameter, gradient in zip(own, torch.autograd.grad(total, own), strict=True):
                parameter.grad = gradient
            optimizers[turn.player].step()
            if turn.player == "student":
                notes = losses.notes
                chances.append((float(notes["chance/right_teacher"]), float(notes["chance/wrong_teacher"])))
    right, wrong = chances[-1]
    assert chances[0] == (0.5, 0.5)
    assert right > wrong + 0.2


def test_one_teacher_is_refused() -> None:
    student = Model(MLP(hidden=[8]).build(FACTS), PLAIN)
    with pytest.raises(StillhouseError, match=r"teacher\.members"):
        TeacherSelection().build(Roles(student, None, FACTS, batch(4)))
