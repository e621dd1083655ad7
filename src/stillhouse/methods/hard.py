"""HARD: images moved so that teacher and student disagree, and the student taught on these.

Paper: Nix, Burg & Sinz 2023, "HARD: Hard Augmentations for Robust Distillation", arXiv:2305.14890.
Algorithm: for each batch of images x, with noise z,
    augmenter: x~ = A(x, z); one step up on KL(teacher(x~) || student(x~)) - keep KL(teacher(x) || teacher(x~));
    student: one step down on KL(teacher || student) on x and on new x~. No labels.
Roles: student; augmenter, a spatial transform, whose distribution over moves a small network gives for an image;
    teacher, asked with gradients to its input.
Deviations: the spatial augmenter alone, not the paper's variational autoencoder. What holds the augmenter back is the
    teacher's own answer to the image before it is moved, by a weight; both players step on every batch.
Limits: one image field; a live teacher.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Batch, Losses, Method, Player, Turn
from stillhouse.methods.logit_kinds import Hard as HardKind
from stillhouse.methods.roles import Roles
from stillhouse.objectives.divergences import forward_kl
from stillhouse.sources.spatial import moved
from stillhouse.teachers.frozen import one_network
from stillhouse.views.model import Model

WIDTH, MOVES = 64, 4
"""Of the augmenter's hidden layer; right, down, turn and zoom."""


class Augmenter(nn.Module):
    """Moves an image [B, C, H, W] by bounds * tanh(mean + deviation * z), z [B, MOVES] normal; mean and deviation of
    each move are what a network makes of the image. At first the moves are spread over all that the bounds allow."""

    bounds: Tensor

    def __init__(self, values: int, kind: HardKind) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(values, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2 * MOVES))
        bounds = [kind.shift, kind.shift, math.radians(kind.rotation), math.log(kind.zoom)]
        self.register_buffer("bounds", torch.tensor(bounds))

    def forward(self, image: Tensor, z: Tensor) -> Tensor:
        mean, log_deviation = self.network(image.flatten(1)).chunk(2, 1)  # [B, MOVES] each
        how = (mean + log_deviation.exp() * z).tanh() * self.bounds
        return moved(image, *how.unbind(1))


class Hard(Method):
    def __init__(self, kind: HardKind, roles: Roles) -> None:
        self.kind = kind
        self.teacher = one_network(roles.teacher, "hard")
        self.student = Player(roles.student)
        image = roles.example["image"]
        self.augmenter = Player(Augmenter(image[0].numel(), kind).to(image.device))

    def schedule(self) -> Iterator[Turn]:
        yield Turn("augmenter", self.update_augmenter)
        yield Turn("student", self.update_student, fresh=False)

    def update_augmenter(self, batch: Batch, rng: torch.Generator) -> Losses:
        hard = self.augmented(batch, rng)
        teacher = Model.signals(self.teacher, hard)["logits"]  # not the frozen one's: gradients reach the image
        before = self.teacher.signals(batch)["logits"]
        student = self.student.module.signals(hard)["logits"]
        disagreement = self.divergence(student, teacher)
        return Losses(agreement=-disagreement, kept=self.kind.keep * forward_kl(teacher, before))

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        with torch.no_grad():
            hard = self.augmented(batch, rng)
        values = {}
        for name, seen in (("plain", batch), ("hard", hard)):
            student, teacher = (model.signals(seen)["logits"] for model in (self.student.module, self.teacher))
            values[name] = self.divergence(student, teacher)
        return Losses(**values)

    def augmented(self, batch: Batch, rng: torch.Generator) -> Batch:
        image = batch["image"]
        z = torch.randn(len(image), MOVES, generator=rng, device=image.device)
        return batch | {"image": self.augmenter(image, z)}

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """KL(teacher || student), [B], with gradients to both."""
        log_q, log_p = ((side.float() / self.kind.temperature).log_softmax(-1) for side in (student, teacher))
        return self.kind.temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)
