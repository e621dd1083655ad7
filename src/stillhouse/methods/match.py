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
from stillhouse.objectives.terms import build_terms


class Match(Method):
    def __init__(self, kind: MatchKind, roles: Roles) -> None:
        self.terms = build_terms(kind.terms)
        self.student_wants = sorted({signal for term in self.terms for signal in term.student_signals})
        self.teacher_wants = sorted({signal for term in self.terms for signal in term.teacher_signals})
        if self.teacher_wants and roles.teacher is None:
            raise StillhouseError(
                f"the terms need the teacher's {', '.join(self.teacher_wants)}, and the recipe has no teacher: "
                "add one, or leave only terms on labels"
            )
        self.teacher = roles.teacher if self.teacher_wants else None
        self.student = Player(roles.student, parts=self._parts(roles))

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        student = self.student.module.signals(batch, self.student_wants)
        teacher = self._teacher_signals(batch)
        labels, where = self.student.module.view.targets(batch) if LABELS in batch else (None, None)
        parts = dict(self.student.parts.items())
        losses = Losses()
        for term in self.terms:
            losses[term.name] = term(student, teacher, labels, where, progress=self.progress, parts=parts, batch=batch)
        return losses

    def _teacher_signals(self, batch: Batch) -> Signals:
        return {} if self.teacher is None else self.teacher.signals(batch, self.teacher_wants)

    def _parts(self, roles: Roles) -> dict[str, torch.nn.Module]:
        """What the terms train, sized by one batch; misfits between the signals are told here."""
        student = roles.look(self.student_wants)
        teacher = self._teacher_signals(roles.example)
        parts = {term.name: term.part(student, teacher) for term in self.terms}
        return {name: part for name, part in parts.items() if part is not None}
