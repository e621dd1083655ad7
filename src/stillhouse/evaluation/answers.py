"""What a classifier answers on a split, computed once and shared by the measurements of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Batch, Source
from stillhouse.errors import NothingToMeasure, StillhouseError
from stillhouse.evaluation.findings import Arm, Context


@dataclass(frozen=True)
class Answers:
    """Logits [N, C] (fp32) and labels [N] of a whole split, on the CPU, in the order of the split."""

    logits: Tensor
    labels: Tensor

    @property
    def guesses(self) -> Tensor:
        """The most likely class of each example, [N]; the lowest index among equals."""
        return self.logits.argmax(-1)

    @property
    def right(self) -> Tensor:
        """Whether the most likely class is the label, [N]."""
        return self.guesses == self.labels


@contextmanager
def measuring(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; afterwards every submodule is in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def batches(source: Source, size: int, device: Any) -> Iterator[Batch]:
    """The whole split in order, as it is: no augmentation."""
    for positions in torch.arange(len(source)).split(size):
        yield {name: value.to(device) for name, value in source.fetch(positions, None).items()}


def answers(arm: Arm, context: Context) -> Answers:
    """The arm's answers on the measured split, from the memo where they are there.

    Raises StillhouseError where the arm is no classifier, or the split is empty.
    """
    found = everything(arm, context)
    if found.logits.dim() != 2 or found.labels.dim() != 1:
        raise StillhouseError(
            f"accuracy, agreement and calibration are for classifiers; {arm.name} gives logits of shape "
            f"{list(found.logits.shape)} for labels of shape {list(found.labels.shape)}: leave them out of 'evaluate'"
        )
    return found


def everything(arm: Arm, context: Context) -> Answers:
    """The same whatever the labels are, [N, ...]. Raises StillhouseError where the split is empty."""
    key = ("answers", arm.name, context.source.fingerprint)
    if key not in context.memo:
        context.memo[key] = _ask(arm, context)
    return context.memo[key]


def _ask(arm: Arm, context: Context) -> Answers:
    if len(context.source) == 0:
        raise NothingToMeasure(f"there is nothing to measure {arm.name} on: the split is empty")
    logits, labels = [], []
    with measuring(arm.model):
        for batch in batches(context.source, context.batch_size, context.device):
            logits.append(arm.model.signals(batch)["logits"].float().cpu())
            labels.append(arm.model.view.targets(batch)[0].cpu())
    return Answers(torch.cat(logits), torch.cat(labels))
