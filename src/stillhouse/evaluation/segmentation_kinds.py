"""The measurements of a class for every pixel that a recipe may ask for. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from stillhouse.evaluation.kinds import Measure, MetricKind


class SegmentationScore(MetricKind):
    """Mean intersection over union, the share of pixels that are right, and of those on which the teacher agrees."""

    kind: Literal["segmentation"] = "segmentation"
    task = "segmentation"
    builds = "stillhouse.evaluation.segmentation:segmentation"
    gives: ClassVar[dict[str, Measure]] = {
        "mean_iou": Measure("mean intersection over union", "higher", "share"),
        "pixel_accuracy": Measure("pixels that are right", "higher", "share"),
        "pixel_agreement": Measure("pixels on which the teacher agrees", "higher", "share"),
    }
