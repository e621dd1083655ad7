"""What a measurement gives: numbers for the summary and figures for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stillhouse.engine.contracts import Data, Source
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.kinds import MetricKind
from stillhouse.views.model import Model


@dataclass
class Arm:
    """One contestant: a trained model, and how it samples where it generates."""

    name: str
    model: Model
    sampler: Any = None


@dataclass
class Context:
    """What every measurement may look at beside its own arm."""

    data: Data
    source: Source
    """The split that is measured."""
    arms: Mapping[str, Arm]
    """All arms, the teacher among them where there is one."""
    seed: int
    device: Any
    batch_size: int = 256
    memo: dict[Any, Any] = field(default_factory=dict)
    """Signals computed once and shared by the measurements of a run."""
    logged: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """The lines of metrics.jsonl by stage; an arm's own stage has its name."""


@dataclass
class Findings:
    """Metrics by name (flat, numbers only) and figures: JSON-able dicts the report knows how to draw.

    A figure is `{"kind": ..., "title": ..., ...}`; the kinds are those of stillhouse.report.figures.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    figures: list[dict[str, Any]] = field(default_factory=list)
    per_example: dict[str, list[float]] = field(default_factory=dict)
    """By metric name, one value an example in the order of the split, where the metric is their mean; of a metric
    about some of the examples, theirs alone, and those must be the same for every arm.
    They give a paired interval for the difference between two arms of one run."""

    def add(self, other: Findings) -> None:
        """Take up what another measurement of the same arm gave.

        Raises StillhouseError where both give a metric of the same name.
        """
        twice = sorted(self.metrics.keys() & other.metrics.keys())
        if twice:
            raise StillhouseError(
                f"two measurements give a metric named {', '.join(twice)}: name each kind once under 'evaluate'"
            )
        self.metrics |= other.metrics
        self.figures += other.figures
        self.per_example |= other.per_example


def measured(kind: MetricKind, arm: Arm, context: Context) -> Findings:
    """What a kind of measurement finds of an arm.

    Raises StillhouseError where it gives a metric that the kind does not register under `gives`.
    """
    found: Findings = kind.build(arm, context)
    if nameless := sorted(found.metrics.keys() - kind.gives.keys()):
        raise StillhouseError(
            f"the metric kind {kind.word!r} gives {', '.join(nameless)} and does not say how it is read: "
            f"add it to `gives` of {type(kind).__name__}"
        )
    return found
