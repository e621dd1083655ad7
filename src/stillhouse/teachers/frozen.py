"""A frozen network as a teacher."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch

from stillhouse.engine.contracts import Batch, Signals
from stillhouse.views.model import Model


class Teacher(Protocol):
    """Whatever gives targets for a batch, without gradients."""

    def signals(self, batch: Batch, wants: Iterable[str] = ("logits",)) -> Signals: ...


class Frozen(Model):
    """A model that never changes: eval mode for good, no gradients, no buffer updates.

    `train()` changes nothing, so that a parent module's `train()` cannot put the teacher's
    batch norm back into training mode.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model.network, model.view)
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Frozen:
        return self

    def signals(self, batch: Batch, wants: Iterable[str] = ("logits",)) -> Signals:
        with torch.no_grad():
            return super().signals(batch, wants)
