"""SSKD: what a teacher makes of turned images, and how it tells which image each was.

Paper: Xu, Liu, Li & Loy 2020, "Knowledge Distillation Meets Self-Supervision", arXiv:2006.07114.
Algorithm: for each batch x and its images turned by 90, 180 and 270 degrees, x~; z = head(features) on each side;
    A_ij = cos(z~_i, z_j);
    head: one step down on the cross-entropy of softmax(A_i / 1) against the image that x~_i was (the teacher's head);
    student: CE(x) w_1 + T^2 KL on x w_2 + T^2 KL on x~ w_3 + S^2 KL(softmax(A^t / S) || softmax(A^s / S)) w_4.
    Of the x~ that the teacher gets wrong, only those count on which the truth stands highest in its ranking.
Roles: student, with a projection head of its own; head, the teacher's; teacher, a live network.
Deviations: the teacher's head learns beside the student, a step before it on every batch, and not in a training of its
    own before. Turns alone, as in the authors' code (the paper's section 4 compares other transforms).
Limits: square images; classification.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Signals, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.feature_kinds import SSKD as SSKDKind
from stillhouse.methods.roles import Roles
from stillhouse.objectives.divergences import forward_kl
from stillhouse.teachers.frozen import one_network

TURNS = 3
"""Turned images of each image: by one, two and three quarters."""


class SSKD(Method):
    def __init__(self, kind: SSKDKind, roles: Roles) -> None:
        self.kind = kind
        self.teacher = one_network(roles.teacher, "sskd")
        image = roles.example["image"]
        if image.shape[-1] != image.shape[-2]:
            raise StillhouseError(f"sskd turns images by quarters, and these are {list(image.shape[-2:])}: not square")
        own = roles.look([kind.features])[kind.features]
        theirs = self.teacher.signals(roles.example, [kind.teacher_features])[kind.teacher_features]
        self.student = Player(roles.student, parts={"head": projection(own)})
        self.head = Player(projection(theirs))

    def schedule(self) -> Iterator[Turn]:
        yield Turn("head", self.update_head)
        yield Turn("student", self.update_student, fresh=False)

    def update_head(self, batch: Batch, rng: torch.Generator) -> Losses:
        teacher = self.teacher.signals(with_turned(batch), [self.kind.teacher_features])
        similar = similarities(self.head(teacher[self.kind.teacher_features]))
        return Losses(contrast=functional.cross_entropy(similar, origins(similar), reduction="none"))

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        kind, seen = self.kind, with_turned(batch)
        student = self.student.module.signals(seen, ["logits", kind.features])
        teacher = self.teacher.signals(seen, ["logits", kind.teacher_features])
        count, labels = len(batch["labels"]), batch["labels"]
        ours, theirs = student["logits"], teacher["logits"]
        similar, target = self.both_similarities(student, teacher)
        answered = counted(theirs[count:], labels.repeat(TURNS), kind.wrong_answers)
        found = counted(target, origins(target), kind.wrong_similarities)
        plain, turned = (
            forward_kl(ours[rows], theirs[rows], temperature=kind.temperature)
            for rows in (slice(count), slice(count, None))
        )
        return Losses(
            labels=Loss(functional.cross_entropy(ours[:count].float(), labels, reduction="none"), kind.labels),
            plain=Loss(plain, kind.plain),
            turned=Loss(turned, kind.turned, answered),
            similarity=Loss(
                forward_kl(similar, target, temperature=kind.similarity_temperature), kind.similarity, found
            ),
        )

    def both_similarities(self, student: Signals, teacher: Signals) -> tuple[Tensor, Tensor]:
        """The student's and the teacher's, [TURNS * B, B] each; none of the gradients reach the teacher's head."""
        ours = similarities(self.student.parts["head"](student[self.kind.features]))
        with torch.no_grad():
            return ours, similarities(self.head(teacher[self.kind.teacher_features]))


def projection(features: Tensor) -> nn.Module:
    """The paper's head on features [B, D]: two linear layers as wide. Raises StillhouseError for other shapes."""
    if features.dim() != 2:
        raise StillhouseError(f"sskd projects vectors [B, D], and the features are {list(features.shape)}")
    width = features.shape[1]
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)).to(features.device)


def with_turned(batch: Batch) -> Batch:
    """The batch's images [B, C, H, H] and, behind them, all turned by one quarter, by two, by three: [4 B, C, H, H]."""
    images = [batch["image"].rot90(quarters, (-2, -1)) for quarters in range(TURNS + 1)]
    return {"image": torch.cat(images)}


def similarities(embedded: Tensor) -> Tensor:
    """Of embeddings [4 B, D] in the order of `with_turned`: the cosine of each turned image with each image,
    [TURNS * B, B]."""
    unit = functional.normalize(embedded.float(), dim=-1)
    count = len(unit) // (TURNS + 1)
    return unit[count:] @ unit[:count].T


def origins(similar: Tensor) -> Tensor:
    """The image that each turned one was, [TURNS * B]."""
    return torch.arange(similar.shape[1], device=similar.device).repeat(TURNS)


def counted(scores: Tensor, truth: Tensor, share: float) -> Tensor:
    """Ones where the truth [N] has the highest of the scores [N, C], and, of the others, where it stands highest among
    them: `share` of them, rounded down."""
    place = (scores > scores.gather(1, truth.unsqueeze(1))).sum(1)
    kept = int((place == 0).sum()) + int(share * int((place > 0).sum()))
    where = torch.zeros_like(truth, dtype=torch.float32)
    where[place.argsort(stable=True)[:kept]] = 1
    return where
