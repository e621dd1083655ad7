"""The measurements of answers with several labels that a recipe may ask for. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from stillhouse.evaluation.kinds import Measure, MetricKind


class MultiLabel(MetricKind):
    """Mean average precision and F1 of answers with several labels, and how often the teacher says the same."""

    kind: Literal["multi-label"] = "multi-label"
    task = "multi-label"
    builds = "stillhouse.evaluation.multi_label:multi_label"
    gives: ClassVar[dict[str, Measure]] = {
        "mean_average_precision": Measure("mean average precision", "higher", "share"),
        "micro_f1": Measure("F1 over all labels", "higher", "share"),
        "label_agreement": Measure("labels on which the teacher agrees", "higher", "share"),
    }
