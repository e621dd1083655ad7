"""What a method is given to build its players from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from stillhouse.engine.contracts import Batch, Facts, Signals, Source
from stillhouse.views.model import Model


@dataclass
class Roles:
    """The student to train, the teacher (None in a control arm), and the facts of the data."""

    student: Model
    teacher: Any  # stillhouse.teachers.frozen.Teacher | None
    facts: Facts
    example: Batch
    """A small batch of the source, to size train-only parts by."""
    sampler: Any = None
    """How the student turns noise into samples (stillhouse.networks.samplers); None where the recipe names no way."""
    source: Source | None = None
    """What the stage trains on; None outside a run."""

    def look(self, wants: Iterable[str]) -> Signals:
        """The student's signals on the example, to size parts by: in eval mode, so that no statistic moves."""
        mode = self.student.training
        self.student.eval()
        with torch.no_grad():
            signals = self.student.signals(self.example, wants)
        self.student.train(mode)
        return signals

    def everything(self, size: int = 512) -> Iterator[Batch]:
        """The whole training source in order and as it is, on the student's device, `size` examples at a time."""
        assert self.source is not None, "the builder gives the source"
        device = next(iter(self.example.values())).device
        for rows in torch.arange(len(self.source)).split(size):
            yield {name: value.to(device) for name, value in self.source.fetch(rows, None).items()}
