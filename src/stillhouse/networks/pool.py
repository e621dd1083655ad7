"""Pooling as a module, so that a tap can read what it gives."""

from __future__ import annotations

from torch import Tensor, nn


class MeanPool(nn.Module):
    """The mean over height and width: maps [B, C, H, W] to the vectors [B, C] that a linear head sees."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))
