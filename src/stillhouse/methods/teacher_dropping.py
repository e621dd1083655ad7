"""Teacher dropping: every example learns from the teacher it is furthest from, and from the others by chance.

Paper: Sariyildiz et al. 2024, "UNIC: Universal Classification Models via Multi-teacher Distillation", ECCV,
    arXiv:2408.05088, section 3.3; its ladder of projectors is the term `ladder`.
Algorithm: for each batch,
    each term is the loss [B] towards one teacher;
    of each example, the largest loss counts, and every other one with probability 1 - drop;
    step the student on the sum of the losses that count, divided by how many they are.
Roles: student; teacher, an ensemble whose members are the teachers, one term each.
Deviations: one feature a teacher; the paper's terms on patches would be further terms of the same teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Loss, Losses
from stillhouse.methods.kinds import Match as MatchKind
from stillhouse.methods.match import Match
from stillhouse.methods.multi_kinds import TeacherDropping as Kind
from stillhouse.methods.roles import Roles


class TeacherDropping(Match):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        super().__init__(MatchKind(terms=kind.terms), roles)
        self.drop = kind.drop

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        every = super().update_student(batch, rng)
        values = torch.stack([loss.weight * loss.values for loss in every.values()], 1)  # [B, M]
        keep = kept(values, self.drop, rng)
        losses = Losses(kept=Loss(values, where=keep))
        for number, name in enumerate(every):
            losses.note(f"{name}/loss", values[:, number].mean())
            losses.note(f"{name}/kept", keep[:, number].mean())
        return losses


def kept(values: Tensor, drop: float, rng: torch.Generator) -> Tensor:
    """Which losses count, 1 or 0: the largest of each row always, every other one with probability 1 - drop. [B, M]"""
    drawn = torch.rand(values.shape, generator=rng, device=values.device) >= drop
    largest = torch.zeros_like(drawn).scatter_(1, values.argmax(1, keepdim=True), True)
    return (drawn | largest).float()
