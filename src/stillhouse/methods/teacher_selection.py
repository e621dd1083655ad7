"""Teacher selection: for every example a policy picks the teachers, and the student's loss rewards it.

Paper: Yuan et al. 2021, "Reinforced Multi-Teacher Selection for Knowledge Distillation" (RL-KD), AAAI,
    arXiv:2012.06048, the section on the model: state, action, policy, reward and REINFORCE.
Algorithm: for each batch,
    the state of teacher m on example x is the student's representation of x, the teacher's soft answer and its
        cross-entropy on the label;
    the policy draws, for each teacher by itself, a_m ~ Bernoulli(sigmoid(A_m . state_m + b_m));
    step the student on alpha mean_{m picked} KL(teacher_m || student) + (1 - alpha) cross-entropy;
    ask the updated student again: the reward r of an example is minus its cross-entropy on the label (reward 1);
    step the policy on -(r - baseline) sum_m log pi(a_m | state_m).
Roles: student; policy; teacher, an ensemble whose members are the teachers.
Deviations: student and policy take turns by the batch, the paper's by the epoch. The baseline is the example's
    reward before the student's step and the batch's mean gain: neither depends on the example's own picks but
    through that mean. Where nothing is drawn, all teachers teach. The paper's other rewards, which add the
    divergence and the accuracy on held-out data, are left out: the divergence is smallest for teachers that are
    unsure, and a student that follows the policy makes it smaller still.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.multi_kinds import TeacherSelection as Kind
from stillhouse.methods.roles import Roles
from stillhouse.objectives.divergences import cross_entropy, forward_kl
from stillhouse.teachers.ensemble import LOGITS, Ensemble


class Policy(nn.Module):
    """One logistic rule a teacher: states [B, M, D] give the logits [B, M] of picking each."""

    def __init__(self, teachers: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(teachers, width))
        self.bias = nn.Parameter(torch.zeros(teachers))

    def forward(self, states: Tensor) -> Tensor:
        return (states * self.weight).sum(-1) + self.bias


class TeacherSelection(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        self.kind = kind
        self.teacher = members_of(roles.teacher, "teacher-selection")
        self.student = Player(roles.student)
        states = states_of(roles.look([kind.state])[kind.state], self._asked(roles.example), roles.example["labels"])
        self.policy = Player(Policy(states.shape[1], states.shape[2]).to(states.device))
        self._answers = self._states = self._picked = self._before = torch.empty(0)  # of the batch that both turns see

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)
        yield Turn("policy", self.update_policy, fresh=False)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        signals = self.student.module.signals(batch, [LOGITS, self.kind.state])
        self._answers = self._asked(batch)  # [B, M, C]
        self._states = states_of(signals[self.kind.state].detach(), self._answers, batch["labels"])
        with torch.no_grad():
            chance = self.policy(self._states).sigmoid()
        self._picked = (torch.rand(chance.shape, generator=rng, device=chance.device) < chance).float()  # [B, M]
        entropy = cross_entropy(signals[LOGITS], batch["labels"])
        self._before = entropy.detach()
        divergence = self._divergence(signals[LOGITS])
        losses = Losses(divergence=Loss(divergence, self.kind.share), labels=Loss(entropy, 1 - self.kind.share))
        right = (self._answers.argmax(-1) == batch["labels"].unsqueeze(1)).float()
        losses.note("chance/right_teacher", (chance * right).sum() / right.sum().clamp(min=1))
        losses.note("chance/wrong_teacher", (chance * (1 - right)).sum() / (1 - right).sum().clamp(min=1))
        return losses

    def update_policy(self, batch: Batch, rng: torch.Generator) -> Losses:
        with torch.no_grad():
            entropy = cross_entropy(self.student.module.signals(batch)[LOGITS], batch["labels"])
        gained = self._before - entropy  # [B], the reward less its baseline
        log_pi = log_probability(self.policy(self._states), self._picked)
        return Losses(reinforce=reinforce(log_pi, gained - gained.mean()))

    def _divergence(self, logits: Tensor) -> Tensor:
        """The mean divergence from the picked teachers, [B]; from all of them where none is picked."""
        every = logits.unsqueeze(1).expand_as(self._answers)
        apart = forward_kl(every, self._answers, temperature=self.kind.temperature)  # [B, M]
        none = self._picked.sum(1, keepdim=True) == 0
        counted = torch.where(none, torch.ones_like(self._picked), self._picked)
        return (apart * counted).sum(1) / counted.sum(1)

    def _asked(self, batch: Batch) -> Tensor:
        """Every teacher's logits, [B, M, C]."""
        return torch.stack([member.signals(batch)[LOGITS] for member in self.teacher.members.values()], 1)


def states_of(seen: Tensor, answers: Tensor, labels: Tensor) -> Tensor:
    """[B, M, D + C + 1]: the example's representation [B, D], the teacher's probabilities, its cross-entropy.

    Args: answers, the teachers' logits [B, M, C]; labels [B].
    """
    each = labels.unsqueeze(1).expand(answers.shape[:2])
    same = seen.flatten(1).unsqueeze(1).expand(-1, answers.shape[1], -1)
    return torch.cat([same, answers.softmax(-1), cross_entropy(answers, each).unsqueeze(-1)], -1)


def log_probability(logits: Tensor, picked: Tensor) -> Tensor:
    """log pi(a | state) of independent picks: logits and picks (0 or 1) [B, M] -> [B]."""
    return -functional.binary_cross_entropy_with_logits(logits, picked, reduction="none").sum(-1)


def reinforce(log_probability: Tensor, advantage: Tensor) -> Tensor:
    """-advantage log pi(a), Williams 1992: its mean gradient is that of minus the expected reward. [B] -> [B]."""
    return -advantage.detach() * log_probability


def members_of(teacher: object, method: str) -> Ensemble:
    """The ensemble that a method of several teachers needs, or an error that says how to write one."""
    if not isinstance(teacher, Ensemble):
        raise StillhouseError(
            f"method {method!r} needs several teachers: name them under teacher.members, each with a network"
        )
    return teacher
