"""LastVisit: a network is held to what it said of the same example when it saw it last.

Papers: Kim et al. 2021, "Self-Knowledge Distillation with Progressive Refinement of Targets" (PS-KD),
    arXiv:2006.12000, section 3; Shen et al. 2022, "Self-Distillation from the Last Mini-Batch" (DLB),
    arXiv:2203.16172, eq. 3.
Algorithm: for each batch, take the logits kept of its examples; step on the sum of the terms, those logits in the
    teacher's place, zero for examples without any; keep the logits just given.
    PS-KD lets the share of the past grow over the training: the terms' weights are ramps.
Roles: student. No teacher.
Deviations: PS-KD takes the past answers from the weights at the end of the last epoch, and DLB has half of each batch
    come again in the next: here an answer is as old as the example's last visit.
Limits: terms on logits and labels. Every process keeps the answers that it gave itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from stillhouse.engine.contracts import Batch, Losses, Method, Player, Turn
from stillhouse.methods.roles import Roles
from stillhouse.methods.self_kinds import LastVisit as Kind
from stillhouse.objectives.terms import of_logits


class LastVisit(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        assert roles.source is not None, "the builder gives the source"
        self.terms = of_logits(kind.terms, kind.word)
        self.student = Player(roles.student)
        self.said = roles.look(["logits"])["logits"].new_full((len(roles.source), roles.facts.classes), torch.nan)

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        now = self.student.module.signals(batch)
        said = self.said[batch["index"]]  # [B, V]
        known = ~said.isnan().any(-1)  # [B]
        labels, where = self.student.module.view.targets(batch)
        losses = Losses()
        for term in self.terms:
            loss = term(now, {"logits": said.nan_to_num()}, labels, where, progress=self.progress, batch=batch)
            losses[term.name] = replace(loss, values=loss.values * known) if term.teacher_signals else loss
        self.said[batch["index"]] = now["logits"].detach().to(self.said.dtype)
        return losses

    def state_dict(self) -> dict[str, Any]:
        return {"said": self.said}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.said = state["said"].to(self.said.device)
