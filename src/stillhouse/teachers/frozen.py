"""A frozen network as a teacher."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import nn

from stillhouse.engine.contracts import Batch, Signals
from stillhouse.views.model import Model


class Teacher(Protocol):
    """Whatever gives targets for a batch, without gradients."""

    def signals(self, batch: Batch, wants: Iterable[str] = ("logits",)) -> Signals: ...


class Frozen(nn.Module):
    """A model that never changes: eval mode for good, no gradients, no buffer updates.

    `train()` is refused quietly, so that a parent module's `train()` cannot put the teacher's
    batch norm back into training mode.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Frozen:
        return self

    def signals(self, batch: Batch, wants: Iterable[str] = ("logits",)) -> Signals:
        with torch.no_grad():
            return self.model.signals(batch, wants)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own forward pass, without gradients to its weights (inputs may take them)."""
        return self.model(*args, **kwargs)
