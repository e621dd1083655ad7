"""The measurements of object detectors that a recipe may ask for. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stillhouse.evaluation.kinds import Measure, MetricKind


class DetectionScore(MetricKind):
    """COCO's average precision of boxes, by pycocotools, and which of the teacher's sure finds are found again."""

    kind: Literal["detection"] = "detection"
    task = "detection"
    needs: ClassVar[str] = "detection"
    builds = "stillhouse.evaluation.detection:detection"
    gives: ClassVar[dict[str, Measure]] = {
        "box_ap": Measure("average precision of boxes, over IoU 0.5 to 0.95", "higher", "share"),
        "box_ap50": Measure("average precision of boxes, at IoU 0.5", "higher", "share"),
        "box_ap75": Measure("average precision of boxes, at IoU 0.75", "higher", "share"),
        "box_agreement": Measure("average precision of boxes, held to the teacher's sure finds", "higher", "share"),
    }
    suppress: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Of boxes of one class that overlap by more (IoU), the less probable goes; 1: none does."""
    sure: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """From which probability on a find of the teacher counts for the agreement."""
