"""The measurements of answers with several labels that a recipe may ask for. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stillhouse.evaluation.kinds import Features, Measure, MetricKind


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


class MultiLabelProbe(Features):
    """Mean average precision of a logistic regression on the features, one for each class."""

    kind: Literal["multi-label-probe"] = "multi-label-probe"
    rehearsed = False
    task = "multi-label"
    builds = "stillhouse.evaluation.multi_label:multi_label_probe"
    gives: ClassVar[dict[str, Measure]] = {
        "probe_average_precision": Measure("mean average precision of a linear probe", "higher", "share")
    }
    inverse_penalty: Annotated[float, Field(gt=0)] = 1.0
    """The larger, the less the weights are held towards zero."""


class MultiLabelKNN(Features):
    """Mean average precision of weighted nearest neighbours on the features, as `knn` weighs them."""

    kind: Literal["multi-label-knn"] = "multi-label-knn"
    task = "multi-label"
    builds = "stillhouse.evaluation.multi_label:multi_label_knn"
    gives: ClassVar[dict[str, Measure]] = {
        "knn_average_precision": Measure("mean average precision of nearest neighbours", "higher", "share")
    }
    neighbours: Annotated[int, Field(gt=0)] = 20
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """A neighbour's vote is exp(cos / temperature)."""
