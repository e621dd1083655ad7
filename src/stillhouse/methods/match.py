"""Match: a weighted sum of terms between the student's signals and the teacher's.

Papers: Hinton et al. 2015, arXiv:1503.02531 (logits with temperature); Romero et al. 2015,
arXiv:1412.6550 (features through a projector). Most of knowledge distillation is this method
under some list of terms.

Algorithm: for each batch, loss = sum over terms of weight * divergence(student's signal, target);
    the target is the teacher's signal on its own view of the batch, or the data's labels.
Roles: student; teacher (absent when every term is on labels).
Deviations: none; terms state theirs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stillhouse.engine.contracts import Batch, Losses, Method, Player, Signals, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.kinds import Match as MatchKind
from stillhouse.methods.roles import Roles
from stillhouse.objectives.kinds import LABELS
from stillhouse.objectives.terms import Terms


class Match(Method):
    def __init__(self, kind: MatchKind, roles: Roles) -> None:
        self.terms = Terms(kind.terms)
        if self.terms.asks and roles.teacher is None:
            raise StillhouseError(
                f"the terms need the teacher's {', '.join(self.terms.asks)}, and the recipe has no teacher: "
                "add one, or leave only terms on labels"
            )
        self.teacher = roles.teacher if self.terms.asks else None
        parts = self.terms.parts(roles.look(self.terms.wants), self._teacher_signals(roles.example))
        self.student = Player(roles.student, parts=parts)

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        student = self.student.module.signals(batch, self.terms.wants)
        teacher = self._teacher_signals(batch)
        labels, where = self.student.module.view.targets(batch) if LABELS in batch else (None, None)
        parts = dict(self.student.parts.items())
        return self.terms.losses(student, teacher, labels, where, progress=self.progress, parts=parts, batch=batch)

    def _teacher_signals(self, batch: Batch) -> Signals:
        return {} if self.teacher is None else self.teacher.signals(batch, self.terms.asks)
