"""Features on the Gaussians of a frozen scene."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Facts
from stillhouse.networks.task_kinds import GaussianField as Kind
from stillhouse.sources.scene import LEVELS


class GaussianField(nn.Module):
    """A feature and the logits of a granularity for each Gaussian, rendered to pixels.

    Input: how much each Gaussian adds to each pixel, [B, N]. Output: `logits`, the rendered features [B, D], and
    `granularity` [B, 3], a softmax of the rendered logits.
    """

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        del kind
        count, width = facts.shape
        self.features = nn.Parameter(0.1 * torch.randn(count, width))
        self.levels = nn.Parameter(torch.zeros(count, LEVELS))

    def forward(self, weights: Tensor) -> dict[str, Tensor]:
        return {
            "logits": weights @ self.features,
            "granularity": functional.softmax(weights @ self.levels, dim=-1),
        }
