"""FidelityRealness: a restorer between a teacher of fidelity and one of realness, moved by a scalar.

Papers: Li et al. 2025, "CTSR: Controllable Fidelity-Realness Trade-off Distillation for Real-World Image Super
    Resolution", arXiv:2503.14272; Ledig et al. 2017 (SRGAN), arXiv:1609.04802, for a student without teachers.
Algorithm: for each batch of low resolutions x, with the teachers' images f = T_f(x) and r = T_r(x),
    draw t from [0, 1] for each image (1 where the student takes no scalar) and let y = S(x, t);
    critic: one step on max(0, 1 - D(r, t)) + max(0, 1 + D(y, t));
    student: one step on mse(y, f) + t * weight * -D(y, t).
    What the image lacks is made of two parts: f - x, towards which every t goes pixel by pixel, and what still tells
    y from the images of T_r, which only the critic sees, so that T_r's own errors of pixels are not taken over.
    At inference t is chosen.
Roles: student, a `super-resolver`; critic; teacher, an ensemble with the two members, or none: then f and r are the
    true images.
Deviations: the paper fuses the teachers first and then teaches the student, a latent diffusion model of one step, to
    follow t between fidelity and the fused solution; here t weighs the two supervisions from the start, in one stage.
    Its realness is learnt through features and scores of a large diffusion model, here through a critic (hinge loss,
    spectral normalisation). With `realness_by: pixels` there is no critic, and the student is fitted to
    (1 - t) f + t r: linear averaging of the teachers, which the paper starts from. The paper's text was not at hand
    beyond its abstract and summaries: what it calls geometric decomposition is read as the two parts above.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Turn
from stillhouse.methods.multi_kinds import FidelityRealness as Kind
from stillhouse.methods.roles import Roles
from stillhouse.networks.super_resolver import Critic
from stillhouse.objectives.divergences import mse


class FidelityRealness(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        self.kind, self.teacher = kind, roles.teacher
        self.student = Player(roles.student)
        self.controlled = bool(getattr(roles.student.network, "controlled", False))
        self.critic = None
        if kind.realness_by == "critic":
            image = roles.look(["logits"])["logits"]
            self.critic = Player(Critic(image[0].numel(), kind.critic).to(image.device))

    def schedule(self) -> Iterator[Turn]:
        if self.critic is not None:
            yield Turn("critic", self.update_critic)
        yield Turn("student", self.update_student)

    def update_critic(self, batch: Batch, rng: torch.Generator) -> Losses:
        assert self.critic is not None
        with torch.no_grad():
            y, t = self.restored(batch, rng)
            _, r = self.targets(batch)
        seen = self.critic(torch.cat([r, y]), torch.cat([t, t])).float()
        real, own = seen.chunk(2)
        return Losses(real=functional.relu(1 - real), own=functional.relu(1 + own))

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        y, t = self.restored(batch, rng)
        f, r = self.targets(batch)
        if self.critic is None:
            return Losses(average=mse(y, torch.lerp(f, r, t.view(-1, 1, 1, 1))))
        realness = -t * self.critic(y, t).float()
        return Losses(fidelity=mse(y, f), realness=Loss(realness, weight=self.kind.weight))

    def restored(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The student's images [B, C, H, W], and the scalar t [B] that each was made with."""
        count, device = len(batch["image"]), batch["image"].device
        t = torch.rand(count, generator=rng, device=device) if self.controlled else torch.ones(count, device=device)
        return self.student.module.signals(batch | {"trade_off": t} if self.controlled else batch)["logits"], t

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The images of the teachers of fidelity and of realness, [B, C, H, W] each."""
        if self.teacher is None:
            return batch["labels"], batch["labels"]
        told = self.teacher.signals(batch, (self.kind.fidelity, self.kind.realness))
        return told[self.kind.fidelity], told[self.kind.realness]
