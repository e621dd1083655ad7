"""A frozen network as a teacher."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import nn

from stillhouse.engine.contracts import Batch, Signals
from stillhouse.errors import StillhouseError
from stillhouse.views.asis import AsIsView
from stillhouse.views.model import Model, View


class Teacher(Protocol):
    """Whatever gives targets for a batch, without gradients."""

    def signals(self, batch: Batch, wants: Iterable[str] = ("logits",)) -> Signals: ...


class Frozen(Model):
    """A model that never changes: eval mode for good, no gradients, no buffer updates.

    `train()` changes nothing, so that a parent module's `train()` cannot put the teacher's
    batch norm back into training mode; where the network's own `train()` did, it is undone before
    the network is asked.

    In a loop of one's own any module will do: `teacher = Frozen(network)`, then `teacher(x)` or
    `teacher(**batch)` gives what the network gives. It is the network itself that is frozen, not a
    copy: freeze `copy.deepcopy(network)` where the network is to learn on.
    """

    def __init__(self, model: Model | nn.Module) -> None:
        view: View = model.view if isinstance(model, Model) else AsIsView()
        super().__init__(model.network if isinstance(model, Model) else model, view)
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Frozen:
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.network.training:
            self.network.eval()
        return super().forward(*args, **kwargs)

    def signals(self, batch: Batch, wants: Iterable[str] = ("logits",)) -> Signals:
        with torch.no_grad():
            return super().signals(batch, wants)


def one_network(teacher: Teacher | None, method: str) -> Frozen:
    """The teacher where it is a live network, which can be asked for more than signals. Raises StillhouseError."""
    if type(teacher) is not Frozen:
        raise StillhouseError(
            f"method {method!r} looks into its teacher, which must be one live network: name it under 'teacher', "
            "without members and without a store"
        )
    return teacher
