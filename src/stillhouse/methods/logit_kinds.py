"""The methods on logits that are more than terms and that a recipe may name. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stillhouse.engine.settings import Fraction, Positive
from stillhouse.methods.kinds import Match, MethodKind
from stillhouse.objectives.kinds import CrossEntropy

Crop = Annotated[float, Field(gt=0, le=1)]


class Hard(MethodKind):
    """A student taught on images that are moved so that teacher and student disagree (Nix et al. 2023, HARD).

    `train.players.augmenter` sets what the augmenter does otherwise than the student.
    """

    kind: Literal["hard"] = "hard"
    builds = "stillhouse.methods.hard:Hard"
    temperature: Positive = 1.0
    """Of the disagreement, KL(teacher || student)."""
    keep: Annotated[float, Field(ge=0)] = 1.0
    """Weight, for the augmenter, of the teacher's KL between its answers to the image before and after."""
    shift: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of the image's width and height that it may be moved by, each way."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Degrees that it may be turned by, each way."""
    zoom: Annotated[float, Field(ge=1)] = 1.0
    """Factor that it may be made larger or smaller by."""

    def without_teacher(self) -> Match:
        return Match(terms=[CrossEntropy()])


class FerKD(MethodKind):
    """Soft labels of crops, scored once and calibrated (Shen 2023, FerKD, arXiv:2306.16324)."""

    kind: Literal["ferkd"] = "ferkd"
    builds = "stillhouse.methods.ferkd:FerKD"
    crops: Annotated[int, Field(gt=0)] = 8
    """Of each training image, drawn and scored before the first step."""
    smallest: Crop = 0.5
    """Least height and width of a crop, as a share of the image's."""
    discard_below: Fraction = 0.2
    """A crop whose largest probability is lower is a hard negative and left out."""
    trust_above: Fraction = 0.6
    """A crop whose largest probability is lower gets the smoothed label in place of the teacher's answer."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of that label."""
    mixed: Fraction = 0.5
    """Share of examples that have a rectangle of another crop of the same image pasted in (SelfMix)."""

    @model_validator(mode="after")
    def _in_order(self) -> FerKD:
        if self.discard_below > self.trust_above:
            raise ValueError("'discard_below' is above 'trust_above': crops that are left out cannot be trusted")
        return self

    def without_teacher(self) -> Match:
        return Match(terms=[CrossEntropy()])


class LELP(MethodKind):
    """Classes split along directions of the teacher's embedding (Loo et al. 2024, LELP, arXiv:2409.20449).

    The student's network is of kind `subclassed`.
    """

    kind: Literal["lelp"] = "lelp"
    builds = "stillhouse.methods.lelp:LELP"
    embedding: str = "features.pool"
    """The teacher's signal that its head sees."""
    head: str = "linear"
    """Module path of the teacher's head: what its weights see of the embedding tells classes apart, not subclasses."""
    sharpness: Positive = 1.0
    """Of the soft assignment to subclasses; the paper's one over beta."""
    temperature: Positive = 1.0
    """Of teacher and student alike."""
    labels: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the labels' cross-entropy; the subclasses have the rest of one."""

    def without_teacher(self) -> Match:
        return Match(terms=[CrossEntropy()])
