"""Average: a network learns from the moving average of its own weights.

Paper: Tarvainen & Valpola 2017, "Mean Teachers Are Better Role Models", arXiv:1703.01780, section 2.
Algorithm: for each batch, the student answers its images and the average another image of each, with its own
    distortion, where the data has two; step on the sum of the terms, the average in the teacher's place; move the
    average by (1 - momentum) towards the student.
Roles: student, whose average is the teacher and what is kept. No other teacher.
Deviations: the momentum is constant; the authors raise it once, early in the training.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stillhouse.engine.contracts import Batch, Losses, Method, Player, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.roles import Roles
from stillhouse.methods.self_kinds import Average as Kind
from stillhouse.objectives.terms import Terms


class Average(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        if kind.teacher_sees not in roles.example:
            raise StillhouseError(
                f"'average' is to show its teacher {kind.teacher_sees!r}, and the batch has "
                f"{', '.join(sorted(roles.example))}: data of kind two-views has second_image"
            )
        self.terms, self.sees = Terms(kind.terms), kind.teacher_sees
        seen = roles.look({*self.terms.wants, *self.terms.asks})
        self.student = Player(roles.student, parts=self.terms.parts(seen, seen), decay=kind.momentum)

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        own = self.student.module.signals(batch, self.terms.wants)
        with torch.no_grad():
            told = self.student.final.signals(batch | {"image": batch[self.sees]}, self.terms.asks)
        labels, where = self.student.module.view.targets(batch)
        parts = dict(self.student.parts.items())
        return self.terms.losses(own, told, labels, where, progress=self.progress, parts=parts, batch=batch)
