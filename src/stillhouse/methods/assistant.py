"""Assistant: candidates of several sizes carved from the teacher, trained together, and one chosen.

Paper: Han et al. 2024, "AMD: Automatic Multi-step Distillation of Large-scale Vision Models", arXiv:2407.04208:
    structural pruning, joint optimisation, and selection by the negative performance-scale derivative.
Algorithm: the teacher's hidden units are put in the order of their importance; candidate c keeps the first ones.
    For each batch, step on the sum over candidates of the terms; all share their weights.
    Candidate c's derivative is (P_teacher - P_c) / (S_teacher - S_c) for performance P and size S (parameters in
    use); the one that loses least for what it saves, the smaller one among equals, is the assistant.
    A later stage takes it as its teacher: that is the chain.
Roles: student, a slimmable network that starts from the teacher's weights; teacher, frozen.
Deviations: the performance is minus the terms' sum, averaged over the last batches, so that the teacher's is that of
    its own answers; the paper's is accuracy, on which candidates tie at this scale. No terms on features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from stillhouse.engine.contracts import Batch, Losses, Method, Player, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.online_kinds import Assistant as AssistantKind
from stillhouse.methods.roles import Roles
from stillhouse.networks.slimmable import Slimmable
from stillhouse.objectives.terms import of_logits


class Assistant(Method):
    def __init__(self, kind: AssistantKind, roles: Roles) -> None:
        network = roles.student.network
        if roles.teacher is None or not isinstance(network, Slimmable):
            raise StillhouseError(
                "method 'assistant' needs a teacher, and a student of kind slimmable that starts from the teacher's "
                "weights: student: {network: {kind: slimmable, ...}, weights: {kind: teacher}}"
            )
        self.kind, self.teacher, self.network = kind, roles.teacher, network
        self.terms = of_logits(kind.terms, kind.word)
        network.order()
        network.share.fill_(min(kind.shares))
        self.lost: dict[float, float] = {}  # the terms' sum by share, 1.0 for the teacher
        self.student = Player(roles.student)

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        view = self.student.module.view
        teacher = self.teacher.signals(batch)
        labels, where = view.targets(batch)
        losses = Losses()
        for share in (*self.kind.shares, 1.0):
            self.network.share.fill_(share)
            own = teacher if share == 1.0 else self.student.module.signals(batch)
            found = {
                f"{term.name}/{share:g}": term(own, teacher, labels, where, progress=self.progress, batch=batch)
                for term in self.terms
            }
            self._judge(share, sum(loss.weight * loss.values.detach().mean().item() for loss in found.values()))
            if share != 1.0:
                losses.update(found)
        self.network.share.fill_(self.chosen())
        return losses

    def chosen(self) -> float:
        """The share of the best candidate so far."""
        full = self.network.size(1.0)

        def derivative(share: float) -> float:
            return (self.lost[share] - self.lost[1.0]) / (full - self.network.size(share))

        return min(sorted(self.kind.shares), key=derivative)

    def _judge(self, share: float, lost: float) -> None:
        memory = self.kind.memory
        self.lost[share] = memory * self.lost[share] + (1 - memory) * lost if share in self.lost else lost

    def told(self) -> dict[str, float]:
        return {"assistant_share": self.network.share.item()}

    def state_dict(self) -> dict[str, Any]:
        return {"lost": dict(self.lost)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.lost = dict(state["lost"])
