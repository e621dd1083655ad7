"""The methods by which a network learns without labels from an average of itself, over prototypes. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.engine.settings import Positive
from stillhouse.kinds import Strict
from stillhouse.methods.kinds import MethodKind
from stillhouse.sources.altered_kinds import Jitter

Open = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(gt=0)]


class PrototypeKind(MethodKind):
    """What they share: the head, the average and the temperatures of DINO, Caron et al. 2021 (arXiv:2104.14294)."""

    prototypes: Annotated[int, Field(gt=1)] = 128
    """Vectors that the head compares with; the paper has 65,536."""
    hidden: Count = 64
    """Width of the head's two hidden layers."""
    bottleneck: Count = 32
    """Width of what is compared with the prototypes."""
    momentum: Open = 0.9
    """Of the average of the weights, the teacher, at first; the paper's 0.996 is for 100,000 steps."""
    final_momentum: Annotated[float, Field(gt=0, le=1)] = 0.99
    """At the end, along a half cosine."""
    student_temperature: Positive = 0.1
    teacher_temperature: Positive = 0.02

    @property
    def asks_teacher(self) -> bool:
        return False


class Hiding(Strict):
    """Which patches of an image are hidden from the student."""

    by: Literal["attention", "random"] = "attention"
    """Those the teacher looks at most (AttMask-High), or any."""
    share: Open = 0.4
    """Of the patches of an image."""
    chance: Annotated[float, Field(gt=0, le=1)] = 0.5
    """That an image is changed at all."""


class Profile(Strict):
    """What the second class token is to tell."""

    cell: Count = 2
    """Height and width in patches of the cells of which one patch each is drawn."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the patches in the target; the rest is the first token's."""


class SelfDistillation(PrototypeKind):
    """A vision transformer learns without labels from an average of itself on another view: DINO (arXiv:2104.14294).

    For data of kind `two-views`.
    """

    kind: Literal["self-distillation"] = "self-distillation"
    builds = "stillhouse.methods.self_distillation:SelfDistillation"
    hide: Hiding | None = None
    """Patches hidden from the student, whose targets it has to find: iBOT (arXiv:2111.07832), AttMask
    (arXiv:2203.12719)."""
    profile: Profile | None = None
    """A second class token learns what patches all over the image say: UDI (arXiv:2407.17671)."""


class Characters(PrototypeKind):
    """A network learns from lines of characters without labels, character by character: CCD, Guan et al. 2023
    (arXiv:2211.00288).

    For data of kind `lines`, bright on dark.
    """

    kind: Literal["characters"] = "characters"
    builds = "stillhouse.methods.characters:Characters"
    by: Literal["character", "slice", "line"] = "character"
    """What is compared between two views of a line: its characters, slices of one width, or the whole line."""
    signal: str = "features.map"
    """The network's map that is pooled."""
    most: Count = 8
    """Characters of a line that are looked for, or slices."""
    jitter: Jitter = Jitter()
    """Of the second view; the first one is inked otherwise and stays in its place."""
