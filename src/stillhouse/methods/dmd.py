"""DMD: distribution matching distillation of a diffusion model into a one-step generator.

Papers: Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation", arXiv:2311.18828,
    algorithm 1 and eqs. 7 and 8; Yin et al. 2024, "Improved Distribution Matching Distillation for Fast Image
    Synthesis" (DMD2), arXiv:2405.14867, sections 4.1 and 4.2.
Algorithm: start generator G and critic (the fake score) from the teacher; then repeat
    critic_updates times: draw x = G(z, y), sigma and eps; step the critic on
        lambda(sigma) mean((D_critic(x + sigma eps) - x)^2);
    once: draw x = G(z, y), sigma and eps, x_t = x + sigma eps; step G along
        (D_critic(x_t) - D_teacher(x_t)) / mean |x - D_teacher(x_t)|.
    The critic's faster time scale lets it follow G's distribution, which is what makes the regression
    on stored pairs needless (DMD2, section 4.2).
Roles: student, a generator made of a denoiser and its sampler; critic; teacher, a frozen denoiser.
Deviations: the regression loss of DMD is left out, as in DMD2; DMD2's adversarial loss (section 4.3) is left
    out as well, so real images are never seen here: labels alone are drawn from the data. Noise levels are drawn
    from a continuous range for both players, evenly along the schedule of Karras et al. 2022, eq. 5.
Limits: generators of one step; no classifier-free guidance.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Losses, Method, Player, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.denoise import data_deviation, noised
from stillhouse.methods.kinds import DMD as DMDKind
from stillhouse.methods.roles import Roles
from stillhouse.networks.samplers import OneStep, noise_levels
from stillhouse.objectives.scores import denoising, distribution_matching, teacher_distance_weight
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.model import Model


class DMD(Method):
    def __init__(self, kind: DMDKind, roles: Roles) -> None:
        self.kind = kind
        self.teacher = _live(roles.teacher)
        self.sample = _one_step(roles)
        self.sigma_data = data_deviation(self.teacher, "dmd")
        self.student = Player(roles.student)
        critic = copy.deepcopy(self.teacher.network).requires_grad_(True)
        self.critic = Player(Model(critic, self.teacher.view))

    def schedule(self) -> Iterator[Turn]:
        for _ in range(self.kind.critic_updates):
            yield Turn("critic", self.update_critic)
        yield Turn("student", self.update_student)

    def update_critic(self, batch: Batch, rng: torch.Generator) -> Losses:
        with torch.no_grad():
            x = self.generate(batch, rng)  # [B, C, H, W]
        sigma = self.sigma(x, rng)
        denoised = self.critic(noised(x, sigma, rng), sigma, batch["labels"])
        return Losses(denoising=denoising(denoised, x, sigma, sigma_data=self.sigma_data))

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        x = self.generate(batch, rng)
        sigma = self.sigma(x, rng)
        with torch.no_grad():
            x_t = noised(x, sigma, rng)
            real = self.teacher(x_t, sigma, batch["labels"])
            fake = self.critic(x_t, sigma, batch["labels"])
        weight = teacher_distance_weight(x, real)
        return Losses(distribution_matching=distribution_matching(x, real, fake, weight))

    def generate(self, batch: Batch, rng: torch.Generator) -> Tensor:
        """One sample for each label of the batch, [B, C, H, W]."""
        noise = torch.randn(batch["image"].shape, generator=rng, device=rng.device)
        return self.sample(noise, batch["labels"], rng)

    def sigma(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Noise levels, [B]."""
        shares = torch.rand(len(x), generator=rng, device=x.device)
        return noise_levels(shares, self.kind.sigma_min, self.kind.sigma_max)


def _live(teacher: object) -> Frozen:
    if not isinstance(teacher, Frozen):
        raise StillhouseError(
            "method 'dmd' asks its teacher about new samples at every step: it needs a teacher with a network "
            "(teacher.network), not none and not a store alone"
        )
    return teacher


def _one_step(roles: Roles) -> OneStep:
    if not isinstance(roles.sampler, OneStep):
        raise StillhouseError(
            "method 'dmd' trains a generator of one step: set student.sampler to one-step, as in "
            "sampler: {kind: one-step, sigma: 2.5}"
        )
    return roles.sampler
