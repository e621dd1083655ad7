"""The measurements of particular tasks: adaptation to a new domain, parsing, scenes. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from stillhouse.engine.settings import Positive
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


class TradeOff(MetricKind):
    """Fidelity and realness of enlarged images, as a scalar moves from the one to the other.

    Of a student that takes the scalar, and of a teacher with two members, whose images are averaged with the scalar as
    the second one's share. Realness is the Fréchet distance (Heusel et al. 2017, arXiv:1706.08500) from true images in
    the features of a classifier that was trained on true images alone: blur, ghosts and made-up strokes all move it,
    and the true image's own place does not matter to it, which is decibels' part.
    """

    kind: Literal["trade-off"] = "trade-off"
    task = "restoration"
    builds = "stillhouse.evaluation.restoration:trade_off"
    gives: ClassVar[dict[str, Measure]] = {
        "psnr_low": Measure("decibels, scalar 0", "higher"),
        "psnr_middle": Measure("decibels, scalar 1/2", "higher"),
        "psnr_high": Measure("decibels, scalar 1", "higher"),
        "distance_low": Measure("Fréchet distance, scalar 0", "lower"),
        "distance_middle": Measure("Fréchet distance, scalar 1/2", "lower"),
        "distance_high": Measure("Fréchet distance, scalar 1", "lower"),
        "distance_matched": Measure("Fréchet distance at equal decibels", "lower"),
        "ahead": Measure("places ahead of the teachers' average", "higher", "share"),
    }
    needs_teacher = True
    rehearsed = False
    given_up: Positive = 0.4
    """Decibels below the teacher's at scalar 0: where arms are compared at one fidelity."""
    places: Annotated[int, Field(ge=3)] = 9
    """Values of the scalar from 0 to 1, an odd number of them."""

    @field_validator("places")
    @classmethod
    def _odd(cls, places: int) -> int:
        if places % 2 == 0:
            raise ValueError(f"one half is not among {places} even steps from 0 to 1: say {places + 1}")
        return places


class Answering(MetricKind):
    """What the measurements of answers to instructions share."""

    task = "language"
    answer: str
    """A regular expression for what counts in an answer."""
    length: Annotated[int, Field(gt=0)]
    """Tokens that are written at most."""


class Skills(Answering):
    """How many held-out instructions are answered rightly, the likeliest token being written at each place.

    An answer is right where it has the gold answer's matches of `answer`, whatever its style.
    """

    kind: Literal["skills"] = "skills"
    builds = "stillhouse.evaluation.instructions:skills"
    gives: ClassVar[dict[str, Measure]] = {
        "new_skill": Measure("answers of the new skill that are right", "higher", "share"),
        "known_skills": Measure("answers of the known skills that are right", "higher", "share"),
        "known_style": Measure("of those, answers that are the gold one word for word", "higher", "share"),
    }


class Rewriting(Answering):
    """The arm rewrites held-out gold answers of the new skill: how likely it finds them and what becomes of them."""

    kind: Literal["rewriting"] = "rewriting"
    builds = "stillhouse.evaluation.instructions:rewriting"
    gives: ClassVar[dict[str, Measure]] = {
        "rewritten": Measure("gold answers it rewrote with the same result", "higher", "share"),
        "gold_nll": Measure("negative log-likelihood of gold answers", "lower", "nats"),
        "rewritten_nll": Measure("the same after rewriting", "lower", "nats"),
    }
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the sampling."""
