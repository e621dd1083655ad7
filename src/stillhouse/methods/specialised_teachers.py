"""Specialised teachers: masks make several specialists of each teacher, and a router picks some for every example.

Paper: Li et al. 2025, "MST-Distill: Mixture of Specialized Teachers for Cross-Modal Knowledge Distillation",
    ACM Multimedia, arXiv:2507.07015, section 3, and the authors' code where the paper is silent.
Algorithm: three phases of one stage,
    1. step the student on cross-entropy and the mean of KL(teacher || student);
    2. a specialist is a teacher one of whose layers is multiplied by a mask in (0, 1) of that layer's own output;
       step each mask on KL(student || specialist), so that what the student cannot follow is suppressed;
    3. a router on the student's logits weighs the specialists; of each example the top k count:
       step the student, and with it the router, on cross-entropy + mean over the k of KL(specialist || student)
       + KL(uniform || mean weights of the batch), which keeps every specialist in use.
    All divergences are at one temperature and times its square.
Roles: student; masks, a player that has the second phase; teacher, an ensemble of models of the other modality and of
    both. The router is a train-only part of the student.
Deviations: the teachers are trained before, on labels, and stay frozen, where the paper trains them in phase 1
    together with the student; a mask is a perceptron and not self-attention over the layer's channels, and lets almost
    everything pass at the start. As in the
    code, the choice of the k passes no gradient, so that the router learns from its third term alone.
Limits: masked layers give vectors [B, D].
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Turn
from stillhouse.methods.multi_kinds import SpecialisedTeachers as Kind
from stillhouse.methods.roles import Roles
from stillhouse.methods.teacher_selection import members_of
from stillhouse.objectives.divergences import cross_entropy, forward_kl
from stillhouse.taps.hooks import tapped
from stillhouse.teachers.ensemble import LOGITS
from stillhouse.views.model import Model


class Mask(nn.Module):
    """How much of each unit passes: [B, D] -> [B, D] in (0, 1). Almost all of it at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Linear(width // 2, width)
        nn.init.constant_(last.bias, 3.0)
        self.layers = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), last, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SpecialisedTeachers(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        self.kind = kind
        self.teacher = members_of(roles.teacher, "specialised-teachers")
        device = roles.example["labels"].device
        self.places = [(member, tap) for member in self.teacher.members for tap in kind.taps]  # of the specialists
        given = self.teacher.signals(roles.example, [LOGITS, *(f"{m}.features.{tap}" for m, tap in self.places)])
        masks = [Mask(given[f"{member}.features.{tap}"].shape[-1]) for member, tap in self.places]
        self.masks = Player(nn.ModuleList(masks).to(device))
        classes = given[LOGITS].shape[-1]
        router = nn.Sequential(nn.Linear(classes, 2 * classes), nn.Linear(2 * classes, len(masks)))
        self.student = Player(roles.student, parts={"router": router.to(device)})

    def schedule(self) -> Iterator[Turn]:
        first, second = self.kind.phases
        if self.progress < first:
            yield Turn("student", self.update_together)
        elif self.progress < first + second:
            yield Turn("masks", self.update_masks)
        else:
            yield Turn("student", self.update_routed)

    def update_together(self, batch: Batch, rng: torch.Generator) -> Losses:
        logits = self.student.module.signals(batch)[LOGITS]
        answers = [member.signals(batch)[LOGITS] for member in self.teacher.members.values()]
        apart = torch.stack([self._divergence(logits, one) for one in answers], 1).mean(1)
        return Losses(labels=cross_entropy(logits, batch["labels"]), teachers=Loss(apart, self.kind.weight))

    def update_masks(self, batch: Batch, rng: torch.Generator) -> Losses:
        with torch.no_grad():
            logits = self.student.module.signals(batch)[LOGITS]
        apart = [self._divergence(one, logits) for one in self.specialists(batch)]
        return Losses({f"mask/{place}": Loss(one) for place, one in zip(self._named(), apart, strict=True)})

    def update_routed(self, batch: Batch, rng: torch.Generator) -> Losses:
        logits = self.student.module.signals(batch)[LOGITS]
        with torch.no_grad():
            answers = torch.stack(self.specialists(batch), 1)  # [B, M, C]
        weights = self.student.parts["router"](logits).softmax(-1)  # [B, M]
        chosen = weights.topk(self.kind.top, 1).indices  # [B, k]
        picked = answers.gather(1, chosen.unsqueeze(-1).expand(-1, -1, answers.shape[-1]))
        apart = self._divergence(logits.unsqueeze(1).expand_as(picked), picked).mean(1)
        balance = unbalanced(weights).unsqueeze(0)
        losses = Losses(labels=cross_entropy(logits, batch["labels"]), specialists=Loss(apart, self.kind.weight))
        losses["balance"] = Loss(balance, self.kind.balance)
        for number, place in enumerate(self._named()):
            losses.note(f"routed/{place}", (chosen == number).float().mean())
        return losses

    def specialists(self, batch: Batch) -> list[Tensor]:
        """The specialists' logits [B, C] each, with gradients to their masks."""
        return [self._masked(*place, mask, batch) for place, mask in zip(self.places, self.masks.module, strict=True)]

    def _masked(self, member: str, tap: str, mask: nn.Module, batch: Batch) -> Tensor:
        frozen = self.teacher.members[member]
        handle = tapped(frozen.network, tap).register_forward_hook(lambda _, __, output: output * mask(output))
        try:
            return Model.signals(frozen, batch)[LOGITS]  # not Frozen's, which gives the mask no gradient
        finally:
            handle.remove()

    def _named(self) -> list[str]:
        return [f"{member}/{tap}" for member, tap in self.places]

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        return forward_kl(student, teacher, temperature=self.kind.temperature)


def unbalanced(weights: Tensor) -> Tensor:
    """KL(uniform || mean over the batch of the router's weights [B, M]), a number; zero where all are used alike."""
    mean = weights.mean(0)
    even = torch.full_like(mean, 1 / len(mean))
    return functional.kl_div(mean.log(), even, reduction="sum")
