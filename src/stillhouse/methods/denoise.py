"""Denoise: a diffusion model trained on data alone, which is how a teacher of generators comes about.

Paper: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models",
    arXiv:2206.00364, eqs. 2 and 8 and the column "Ours" of table 1.
Algorithm: for each batch of clean images x and labels y,
    draw ln sigma from N(log_mean, log_std^2) for each image, and eps from N(0, I);
    step on lambda(sigma) mean((D(x + sigma eps, sigma, y) - x)^2).
Roles: student, a denoiser.
Deviations: no augmentation beyond the source's own; labels are never dropped.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Losses, Method, Player, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.kinds import Denoise as DenoiseKind
from stillhouse.methods.roles import Roles
from stillhouse.objectives.scores import denoising
from stillhouse.views.model import Model


class Denoise(Method):
    def __init__(self, kind: DenoiseKind, roles: Roles) -> None:
        self.kind = kind
        self.student = Player(roles.student)
        self.sigma_data = data_deviation(roles.student, "denoise")

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        x = self.student.module.view.inputs(batch)[""]  # [B, C, H, W], as the view shows it
        sigma = noise_levels(x, rng, self.kind.log_mean, self.kind.log_std)
        denoised = self.student(noised(x, sigma, rng), sigma, batch["labels"])
        return Losses(denoising=denoising(denoised, x, sigma, sigma_data=self.sigma_data))


def noise_levels(x: Tensor, rng: torch.Generator, log_mean: float, log_std: float) -> Tensor:
    """One sigma [B] for each of x [B, ...], ln sigma from N(log_mean, log_std^2)."""
    return (log_mean + log_std * torch.randn(len(x), generator=rng, device=x.device)).exp()


def noised(x: Tensor, sigma: Tensor, rng: torch.Generator) -> Tensor:
    """x + sigma eps, eps ~ N(0, I): x [B, ...], sigma [B]."""
    eps = torch.randn(x.shape, generator=rng, device=x.device)
    return x + sigma.view(-1, *[1] * (x.dim() - 1)) * eps


def data_deviation(model: Model, method: str) -> float:
    """The standard deviation of data that a denoiser is made for, or an error where the network is none."""
    found = getattr(model.network, "sigma_data", None)
    if not isinstance(found, float):
        raise StillhouseError(
            f"method {method!r} trains denoisers, and {type(model.network).__name__} is none: "
            "choose a network that takes (x, sigma, labels) and tells its sigma_data, such as network: denoiser"
        )
    return found
