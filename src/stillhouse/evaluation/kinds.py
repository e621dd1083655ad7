"""The measurements a recipe may ask for under `evaluate`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stillhouse.kinds import Kind


class MetricKind(Kind):
    """Measures an arm: builds a function `(kind, arm, context) -> Findings` (see stillhouse.evaluation.findings)."""

    family: ClassVar[str] = "metric"


class Accuracy(MetricKind):
    """Share of test examples whose most likely class is the label; per class in the report."""

    kind: Literal["accuracy"] = "accuracy"
    builds = "stillhouse.evaluation.classification:accuracy"


class Agreement(MetricKind):
    """Share of test examples on which the arm and the teacher name the same class, and their KL divergence."""

    kind: Literal["agreement"] = "agreement"
    builds = "stillhouse.evaluation.classification:agreement"


class Calibration(MetricKind):
    """Negative log-likelihood, Brier score and expected calibration error (Guo et al. 2017, arXiv:1706.04599)."""

    kind: Literal["calibration"] = "calibration"
    builds = "stillhouse.evaluation.classification:calibration"
    bins: Annotated[int, Field(ge=2, le=100)] = 15


class Cost(MetricKind):
    """Parameters, multiply-adds of one forward pass, and time an example."""

    kind: Literal["cost"] = "cost"
    builds = "stillhouse.evaluation.cost:cost"
