"""What a method is given to build its players from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stillhouse.engine.contracts import Batch, Facts
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
