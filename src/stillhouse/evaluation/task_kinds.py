"""The measurements of particular tasks: adaptation to a new domain, parsing, scenes. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stillhouse.evaluation.kinds import Measure, MetricKind


class AdaptedAccuracy(MetricKind):
    """Accuracy after a network of kind `adapting` took its step on the unlabelled batch; as it stands for others."""

    kind: Literal["adapted-accuracy"] = "adapted-accuracy"
    task = "classification"
    needs_teacher = True
    builds = "stillhouse.evaluation.adaptation:adapted_accuracy"
    gives: ClassVar[dict[str, Measure]] = {
        "adapted_accuracy": Measure("accuracy after adaptation", "higher", "share"),
    }
    batch_size: Annotated[int, Field(gt=0)] = 64
    """Examples that one step is taken on; every batch starts from the trained weights again."""


class SceneLabels(MetricKind):
    """How often features rendered to unseen pixels name the object that is there, and how far from true they are."""

    kind: Literal["scene-labels"] = "scene-labels"
    builds = "stillhouse.evaluation.scenes:scene_labels"
    gives: ClassVar[dict[str, Measure]] = {
        "label_accuracy": Measure("pixels named rightly", "higher", "share"),
        "feature_distance": Measure("distance of features, 1 - cosine", "lower"),
    }


class BracketF1(MetricKind):
    """Unlabelled F1 of a parser's trees by sentence, without the whole sentence's span.

    Beside it that of the average of the data's parsers, and of the best of these.
    """

    kind: Literal["bracket-f1"] = "bracket-f1"
    builds = "stillhouse.evaluation.parsing:bracket_f1_of"
    gives: ClassVar[dict[str, Measure]] = {
        "f1": Measure("F1 of brackets", "higher", "share"),
        "average_f1": Measure("F1 of the parsers' average", "higher", "share"),
        "best_parser_f1": Measure("F1 of the best parser", "higher", "share"),
    }


class PSNR(MetricKind):
    """Peak signal-to-noise ratio of restored images against the true ones, in decibels, the mean over images."""

    kind: Literal["psnr"] = "psnr"
    builds = "stillhouse.evaluation.restoration:psnr"
    gives: ClassVar[dict[str, Measure]] = {"psnr": Measure("peak signal-to-noise ratio, dB", "higher")}
