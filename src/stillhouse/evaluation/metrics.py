"""All metrics there are, and what each of their numbers means."""

from __future__ import annotations

from stillhouse.evaluation import (
    architecture_kinds,  # noqa: F401  importing registers
    detection_kinds,  # noqa: F401  importing registers
    encoder_kinds,  # noqa: F401  importing registers
    generation_kinds,  # noqa: F401  importing registers
    multi_label_kinds,  # noqa: F401  importing registers
    regression_kinds,  # noqa: F401  importing registers
    segmentation_kinds,  # noqa: F401  importing registers
    task_kinds,  # noqa: F401  importing registers
)
from stillhouse.evaluation.kinds import Measure, MetricKind
from stillhouse.kinds import kinds


def measures() -> dict[str, Measure]:
    """Every metric that a registered kind gives, by its name in summary.json."""
    registered = [kind for kind in kinds("metric").values() if issubclass(kind, MetricKind)]
    return {name: measure for kind in registered for name, measure in kind.gives.items()}
