"""Granularity selection: a scene learns its own features, and which of several targets agree between views.

Paper: Peng et al. 2024, "GAGS: Granularity-Aware Feature Distillation for Language Gaussian Splatting",
    arXiv:2412.13654, the section on the granularity factor.
Algorithm: for each batch of pixels,
    render the Gaussians' features f and, through a softmax, the shares p of the granularities;
    step the scene on sum_g p_g mean |f - target_g|, so that a Gaussian comes to trust the granularity whose targets
        its views agree on; nobody says which one that is.
    For comparison, the shares are all alike, or one granularity has all.
Roles: student, features on the Gaussians of a frozen scene. The teacher's features are in the batch.
Deviations: the factor is rendered from one triple of logits a Gaussian, without a decoder; the scene is flat.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Losses, Method, Player, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.multi_kinds import GranularitySelection as Kind
from stillhouse.methods.roles import Roles
from stillhouse.objectives.divergences import at_least_fp32


class GranularitySelection(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        if "targets" not in roles.example:
            raise StillhouseError("method 'granularity-selection' needs targets at several granularities: data 'scene'")
        self.by = kind.by
        self.student = Player(roles.student)

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        signals = self.student.module.signals(batch, ["logits", "granularity"])
        targets = batch["targets"]  # [B, 3, D]
        shares = signals["granularity"]
        if isinstance(self.by, int):
            shares = torch.eye(shares.shape[1], device=shares.device)[self.by].expand_as(shares)
        elif self.by == "average":
            shares = torch.full_like(shares, 1 / shares.shape[1])
        losses = Losses(selected=selected_distance(signals["logits"], targets, shares))
        losses.note("largest_share", signals["granularity"].max(1).values.mean())
        return losses


def selected_distance(rendered: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
    """sum_g shares_g mean |rendered - targets_g|: [B, D], [B, G, D] and [B, G] -> [B]."""
    apart = (at_least_fp32(rendered).unsqueeze(1) - targets).abs().mean(2)
    return (shares * apart).sum(1)
