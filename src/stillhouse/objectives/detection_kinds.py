"""The terms of object detection that a recipe may name under `by`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stillhouse.objectives.kinds import FeatureTerm, TermKind

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class DenseDetection(TermKind):
    """Generalised focal loss of labels and boxes, Li et al. 2020 (arXiv:2006.04388), for networks like `gfl`."""

    by: Literal["dense_detection"] = "dense_detection"
    builds = "stillhouse.objectives.detection:dense_detection"
    takes: ClassVar[tuple[str, ...]] = ("boxes",)
    answers: ClassVar[str | list[str]] = ["logits", "edges", "places", "boxes"]
    signal: Literal["labels"] = "labels"
    teacher_signal: None = None
    overlap_weight: NotNegative = 2.0
    """Of the generalised IoU loss."""
    edge_weight: NotNegative = 0.25
    """Of the distribution focal loss."""


class SetDetection(TermKind):
    """DETR's loss of labels and boxes, Carion et al. 2020 (arXiv:2005.12872), for models that answer with a set."""

    by: Literal["set_detection"] = "set_detection"
    builds = "stillhouse.objectives.detection:set_detection"
    takes: ClassVar[tuple[str, ...]] = ("boxes",)
    answers: ClassVar[str | list[str]] = ["logits", "boxes"]
    signal: Literal["labels"] = "labels"
    teacher_signal: None = None
    corner_weight: NotNegative = 5.0
    """Of the boxes' L1 distance."""
    overlap_weight: NotNegative = 2.0
    """Of the generalised IoU loss."""
    no_object: Positive = 0.1
    """What an answer without an object counts."""


class EdgeDistillation(TermKind):
    """T^2 KL of where a box's edges lie, Zheng et al. 2022 (localisation distillation, arXiv:2102.12252)."""

    by: Literal["edge_distillation"] = "edge_distillation"
    builds = "stillhouse.objectives.detection:edge_distillation"
    takes: ClassVar[tuple[str, ...]] = ("labels", "boxes")
    signal: list[str] = ["edges", "places"]
    temperature: Positive = 10.0


class ObjectFeatures(FeatureTerm):
    """Features in the boxes and outside of them, each for themselves: Yang et al. 2022 (FGD, arXiv:2111.11837)."""

    by: Literal["object_features"] = "object_features"
    builds = "stillhouse.objectives.detection:object_features"
    takes: ClassVar[tuple[str, ...]] = ("labels", "boxes")
    signal: str = Field(...)
    background: NotNegative = 0.5
    """Weight of what is in no box."""
    attention: NotNegative = 1.0
    """Weight of the difference between the two attentions."""
    temperature: Positive = 0.5
    """Of the attentions."""
