"""Similar sources: distil models of other domains, each weighted by its similarity to the target task.

Paper: Borup, Phoo & Hariharan 2023, "Distilling from Similar Tasks for Transfer Learning on a Budget",
    arXiv:2304.12314, section 3: DistillNearest and DistillWeighted.
Algorithm: once, for each source s, the similarity e_s = PARC of its features and the labels there are, and the
        weight w_s = max(e_s, 0)^power / sum of the same;
    for each batch, step on
        share * mean over labelled examples of the cross-entropy
        + (1 - share) * sum_s w_s mean over all examples of KL(p_s || head_s(student's features)).
    power 0 weighs all sources alike; a large power is DistillNearest.
Roles: student; teacher, an ensemble whose members are the sources. The heads are train-only parts.
Deviations: labelled and other examples come in one batch, where the paper draws a batch of each.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import IGNORED, Batch, Loss, Losses, Method, Player, Source, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.multi_kinds import SimilarSources as Kind
from stillhouse.methods.roles import Roles
from stillhouse.methods.teacher_selection import members_of
from stillhouse.objectives.divergences import cross_entropy, forward_kl
from stillhouse.objectives.transferability import parc
from stillhouse.teachers.ensemble import LOGITS, Ensemble

CHUNK = 1024


class SimilarSources(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        self.kind = kind
        self.teacher = members_of(roles.teacher, "similar-sources")
        assert roles.source is not None, "similarities need the source's labels"
        self.weights = weights_of(similarities(self.teacher, kind.source_signal, roles.source), kind.power)
        width = roles.look([kind.signal])[kind.signal].shape[-1]
        answers = {name: member.signals(roles.example)[LOGITS] for name, member in self.teacher.members.items()}
        device = roles.example["labels"].device
        heads = {name: nn.Linear(width, logits.shape[-1]).to(device) for name, logits in answers.items()}
        self.student = Player(roles.student, parts=heads)

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        signals = self.student.module.signals(batch, [LOGITS, self.kind.signal])
        where = (batch["labels"] != IGNORED).float()
        losses = Losses(labels=Loss(cross_entropy(signals[LOGITS], batch["labels"]), self.kind.share, where))
        for name, member in self.teacher.members.items():
            apart = forward_kl(self.student.parts[name](signals[self.kind.signal]), member.signals(batch)[LOGITS])
            losses[name] = Loss(apart, (1 - self.kind.share) * self.weights[name])
        return losses

    def told(self) -> dict[str, float]:
        return {f"weight/{name}": weight for name, weight in self.weights.items()}


def similarities(teacher: Ensemble, signal: str, source: Source) -> dict[str, float]:
    """PARC of each member on the labelled examples of a source, as they are. Raises StillhouseError without two."""
    device = next(teacher.parameters()).device
    found: dict[str, list[Tensor]] = {name: [] for name in teacher.members}
    labels = []
    for rows in torch.arange(len(source)).split(CHUNK):
        batch = {name: value.to(device) for name, value in source.fetch(rows, None).items()}
        known = batch["labels"] != IGNORED
        labels.append(batch["labels"][known].cpu())
        for name, member in teacher.members.items():
            found[name].append(member.signals(batch, [signal])[signal][known].flatten(1).cpu())
    known_labels = torch.cat(labels)
    if known_labels.unique().numel() < 2:
        raise StillhouseError("similar-sources needs labelled examples of two classes at least")
    return {name: parc(torch.cat(features), known_labels) for name, features in found.items()}


def weights_of(similarity: dict[str, float], power: float) -> dict[str, float]:
    """max(e, 0)^power over its sum; all alike where no similarity is above zero."""
    raised = {name: max(e, 0.0) ** power for name, e in similarity.items()}
    total = sum(raised.values())
    return {name: r / total if total else 1 / len(raised) for name, r in raised.items()}
