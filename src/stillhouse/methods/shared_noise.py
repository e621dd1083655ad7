"""SharedNoise: a denoiser learns from another what to make of the same noised image under a prompt of its own.

Paper: Ma et al. 2023, "PEA-Diffusion: Parameter-Efficient Adapter with Knowledge Distillation in non-English
    Text-to-Image Generation", arXiv:2311.17086, section 3.
Algorithm: for each batch of clean images x and classes y,
    draw ln sigma from N(log_mean, log_std^2) for each image, eps from N(0, I), and x_t = x + sigma eps;
    teacher and student denoise x_t, each told y in its own language;
    step on lambda(sigma) mean((D_student(x_t) - D_teacher(x_t))^2) + feature_weight * mean over taps of the mean
    squared difference between both networks' features + data_weight * the denoising loss.
Roles: student, a denoiser, of which what takes gradients is trained (an adapter of its prompts); teacher, one more.
Deviations: noise levels and weights are those of Karras et al. 2022 (arXiv:2206.00364), not of a discrete schedule.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Turn
from stillhouse.methods.denoise import data_deviation, noise_levels, noised
from stillhouse.methods.diffusion_kinds import SharedNoise as Kind
from stillhouse.methods.roles import Roles
from stillhouse.objectives.divergences import mse
from stillhouse.objectives.scores import denoising
from stillhouse.taps import Taps
from stillhouse.teachers.frozen import one_network
from stillhouse.views.model import Model


class SharedNoise(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        self.kind, self.teacher = kind, one_network(roles.teacher, kind.word)
        self.student = Player(roles.student)
        self.sigma_data = data_deviation(roles.student, kind.word)

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        x = self.student.module.view.inputs(batch)[""]  # [B, C, H, W], as the view shows it
        sigma = noise_levels(x, rng, self.kind.log_mean, self.kind.log_std)
        x_t = noised(x, sigma, rng)
        with torch.no_grad():
            target, told = self.denoised(self.teacher, x_t, sigma, batch)
        own, features = self.denoised(self.student.module, x_t, sigma, batch)
        losses = Losses(denoised=denoising(own, target, sigma, sigma_data=self.sigma_data))
        for path in self.kind.taps:
            weight = self.kind.feature_weight / len(self.kind.taps)
            losses[path.replace(".", "/")] = Loss(mse(features[path], told[path]), weight=weight)
        if self.kind.data_weight:
            values = denoising(own, x, sigma, sigma_data=self.sigma_data)
            losses["denoising"] = Loss(values, weight=self.kind.data_weight)
        return losses

    def denoised(self, model: Model, x_t: Tensor, sigma: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What a denoiser makes of x_t [B, C, H, W], and its features at the taps."""
        with Taps(model.network, self.kind.taps) as kept:
            return model(x_t, sigma, batch["labels"]), kept
