"""What methods of self-distillation over prototypes share: a head, an average that teaches, its targets.

Paper: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (DINO), arXiv:2104.14294,
    section 3.1.
Deviations: targets are spread evenly over the prototypes by Sinkhorn-Knopp over the batch, which DINO's table 7 has
    beside its centring: at a few hundred steps centring had learned little. The teacher's temperature is constant.
Limits: not for sharded players, whose head is asked outside of the network's forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Losses, Method, Player, Turn
from stillhouse.methods.prototype_kinds import PrototypeKind
from stillhouse.objectives.prototypes import evenly_assigned, prototype_cross_entropy
from stillhouse.views.model import Model


class Head(nn.Module):
    """Cosines with K learned vectors, after a perceptron of three layers: [..., D] to [..., K] in [-1, 1]."""

    def __init__(self, kind: PrototypeKind, width: int) -> None:
        super().__init__()
        hidden = kind.hidden
        layers = [nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, kind.bottleneck))
        self.vectors = nn.Parameter(torch.randn(kind.prototypes, kind.bottleneck))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.normalize(self.mlp(x), dim=-1), functional.normalize(self.vectors, dim=-1))


class WithHead(Model):
    """A model whose head is trained and averaged with it, and is gone at export."""

    def __init__(self, model: Model, head: Head) -> None:
        super().__init__(model.network, model.view)
        self.head = head


class OverPrototypes(Method):
    """The student with its head, whose average is the teacher and what is kept."""

    def __init__(self, kind: PrototypeKind, model: Model, width: int) -> None:
        self.kind = kind
        head = Head(kind, width).to(next(model.parameters()).device)
        self.student = Player(WithHead(model, head), decay=kind.momentum)

    def schedule(self) -> Iterator[Turn]:
        """One step, after which the average moves by a momentum that rises along a half cosine."""
        first, last = self.kind.momentum, self.kind.final_momentum
        self.student.decay = last - (last - first) * (1 + math.cos(math.pi * self.progress)) / 2
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        raise NotImplementedError(f"{type(self).__name__} has no losses")

    def targets(self, scores: Tensor) -> Tensor:
        """What scores [N, K] of the teacher ask for, [N, K]."""
        return evenly_assigned(scores, self.kind.teacher_temperature)

    def differ(self, scores: Tensor, targets: Tensor) -> Tensor:
        return prototype_cross_entropy(scores, targets, temperature=self.kind.student_temperature)
