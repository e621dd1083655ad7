"""The measurements of predicted numbers that a recipe may ask for. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from stillhouse.evaluation.kinds import Measure, MetricKind


class Regression(MetricKind):
    """Root mean squared error and the share of the variance explained, of predicted numbers."""

    kind: Literal["regression"] = "regression"
    task = "regression"
    builds = "stillhouse.evaluation.regression:regression"
    gives: ClassVar[dict[str, Measure]] = {
        "rmse": Measure("root mean squared error", "lower"),
        "r2": Measure("variance explained", "higher", "share"),
    }


class Uncertainty(MetricKind):
    """How sure a model is that says so: the mean standard deviation that it gives for its function."""

    kind: Literal["uncertainty"] = "uncertainty"
    task = "regression"
    builds = "stillhouse.evaluation.regression:uncertainty"
    gives: ClassVar[dict[str, Measure]] = {"uncertainty": Measure("mean predicted standard deviation")}


class Correlation(MetricKind):
    """Correlation of predicted numbers with the true ones, of their ranks (SRCC) and of themselves (PLCC)."""

    kind: Literal["correlation"] = "correlation"
    task = "regression"
    builds = "stillhouse.evaluation.regression:correlation"
    gives: ClassVar[dict[str, Measure]] = {
        "srcc": Measure("Spearman correlation", "higher"),
        "plcc": Measure("Pearson correlation", "higher"),
    }
