"""LELP: classes split into pseudo-subclasses along directions of the teacher's embedding.

Paper: Loo et al. 2024, "Linear Projections of Teacher Embeddings for Few-Class Distillation", arXiv:2409.20449.
Algorithm: before the first step, the teacher's embeddings h of all training images;
    what the head's weights see of them is taken out; for each class c, its mean m_c and its S leading principal
    directions, turned at random among themselves so that they carry alike, each brought to deviation 1: V_c [S, D];
    subclass target of x: p(c | x) softmax_s(sharpness V_c (h - m_c)) for every class c.
    For each batch, step on (1 - labels) KL(subclass target || student's subclasses) + labels cross-entropy.
Roles: student, with a head of S outputs a class (network `subclassed`); teacher.
Deviations: classes of the training labels; temperatures act on class and subclass scores alike.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Signals, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.logit_kinds import LELP as LELPKind
from stillhouse.methods.roles import Roles
from stillhouse.objectives.divergences import cross_entropy, forward_kl
from stillhouse.teachers.frozen import Frozen, one_network


class LELP(Method):
    def __init__(self, kind: LELPKind, roles: Roles) -> None:
        self.kind = kind
        self.teacher = one_network(roles.teacher, "lelp")
        self.student = Player(roles.student)
        subclasses = getattr(roles.student.network, "subclasses", None)
        if not isinstance(subclasses, int):
            raise StillhouseError("method 'lelp' needs a student whose network is of kind 'subclassed'")
        h, labels = self._embedded(roles)
        weights = _head(self.teacher, kind.head)  # [C, D]
        self.means, self.directions = directions(h, labels, weights, roles.facts.classes, subclasses)

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        student = self.student.module.signals(batch, ["logits", "subclass_logits"])
        target = self.targets(self.teacher.signals(batch, ["logits", self.kind.embedding]))
        subclasses = forward_kl(student["subclass_logits"], target, temperature=self.kind.temperature)
        return Losses(
            subclasses=Loss(subclasses, weight=1 - self.kind.labels),
            labels=Loss(cross_entropy(student["logits"], batch["labels"]), weight=self.kind.labels),
        )

    def targets(self, teacher: Signals) -> Tensor:
        """The log-probabilities of all subclasses, [B, C S]."""
        centred = teacher[self.kind.embedding].flatten(1).unsqueeze(1) - self.means  # [B, C, D]
        scores = torch.einsum("bcd,csd->bcs", centred, self.directions) * self.kind.sharpness
        return (teacher["logits"].log_softmax(-1).unsqueeze(-1) + scores.log_softmax(-1)).flatten(1)

    def _embedded(self, roles: Roles) -> tuple[Tensor, Tensor]:
        batches = list(roles.everything())
        h = [self.teacher.signals(batch, [self.kind.embedding])[self.kind.embedding].flatten(1) for batch in batches]
        return torch.cat(h), torch.cat([batch["labels"] for batch in batches])


def _head(teacher: Frozen, path: str) -> Tensor:
    """The weights of the teacher's head. Raises StillhouseError where there is no linear layer of that name."""
    layer = dict(teacher.network.named_modules()).get(path)
    if not isinstance(layer, nn.Linear):
        layers = [name for name, module in teacher.network.named_modules() if isinstance(module, nn.Linear)]
        raise StillhouseError(f"the teacher has no linear layer {path!r} (method.head); it has {', '.join(layers)}")
    return layer.weight.detach()


def directions(h: Tensor, labels: Tensor, weights: Tensor, classes: int, count: int) -> tuple[Tensor, Tensor]:
    """Means [C, D] of each class's embeddings h [N, D], and `count` directions [C, count, D] that tell its parts apart.

    Along a direction the class's embeddings have variance 1, and none has to do with the head's weights [K, D].
    """
    seen = torch.linalg.svd(weights, full_matrices=False).Vh  # [K, D], what the head sees
    means, found = [], []
    for c in range(classes):
        own = h[labels == c]
        mean = own.mean(0)
        rest = own - mean
        rest = rest - rest @ seen.T @ seen
        leading = torch.linalg.svd(rest, full_matrices=False).Vh[:count]  # [S, D]
        turned = torch.linalg.qr(torch.randn(count, count).to(h)).Q @ leading
        found.append(turned / (rest @ turned.T).std(0).clamp(min=1e-6).unsqueeze(1))
        means.append(mean)
    return torch.stack(means), torch.stack(found)
