"""The methods that hide patches of images. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

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
