"""The methods that hide patches of images, or teach a network by an average of itself. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.engine.settings import Positive
from stillhouse.kinds import Strict
from stillhouse.methods.kinds import MethodKind, Term

Open = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(gt=0)]


class MaskedAutoencoder(MethodKind):
    """Patches are hidden, and found again from the others: MAE, He et al. 2022 (arXiv:2111.06377).

    With `terms`, between student and teacher: DMAE (arXiv:2208.12256) and the generic stage of G2SD
    (arXiv:2302.14771). The decoder's vectors are the student's signal `decoded` [B, N, width].
    """

    kind: Literal["masked-autoencoder"] = "masked-autoencoder"
    builds = "stillhouse.methods.masked_autoencoder:MaskedAutoencoder"
    mask: Open = 0.75
    """Share of the patches that is hidden."""
    pixels: bool = True
    """Whether the hidden patches' pixels are to be found."""
    terms: list[Term] = []
    teacher_sees: Literal["visible", "everything"] = "visible"
    """The patches that the student sees, or the whole image."""
    width: Count = 32
    """Of the decoder."""
    depth: Count = 1
    """Blocks of the decoder."""
    heads: Count = 2
    """Of the decoder's attention."""

    def without_teacher(self) -> MaskedAutoencoder:
        return self.model_copy(update={"terms": [], "pixels": True})


class Hiding(Strict):
    """Which patches of an image are hidden from the student."""

    by: Literal["attention", "random"] = "attention"
    """Those the teacher looks at most, or any."""
    share: Open = 0.4
    """Of the patches of an image."""
    chance: Annotated[float, Field(gt=0, le=1)] = 1.0
    """That an image is changed at all."""


class SelfDistillation(MethodKind):
    """A network learns without labels from an average of itself: DINO, Caron et al. 2021 (arXiv:2104.14294)."""

    kind: Literal["self-distillation"] = "self-distillation"
    builds = "stillhouse.methods.self_distillation:SelfDistillation"
    momentum: Open = 0.99
    """Of the average of the weights, the teacher; the paper goes from 0.996 to 1."""
    student_temperature: Positive = 0.1
    teacher_temperature: Positive = 0.04
    centre_momentum: Open = 0.9
    hide: Hiding | None = None
    """Patches hidden from the student, whose targets it has to find: iBOT (arXiv:2111.07832), AttMask
    (arXiv:2203.12719)."""
    profile: bool = False
    """A second token learns the mean of the patches' targets: UDI (arXiv:2407.17671)."""
