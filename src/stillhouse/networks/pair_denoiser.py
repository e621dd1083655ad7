"""A denoiser of two images side by side, which may be shown the first of them."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor, nn

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.networks.denoiser import EMBEDDED, Denoiser
from stillhouse.networks.kinds import PairDenoiser as Kind


class PairDenoiser(Denoiser):
    """D(x, sigma, y) of a pair, and D(x, sigma, y, r) where its first image is to be r.

    Without r both images' classes are told. With it the second's alone is, and both images are denoised still: the
    first becomes r itself (Cai et al. 2024, arXiv:2411.18616, whose model makes two frames of which the first is the
    image it was given). What reads r starts at zero, so that r changes nothing before it was trained.

    Class c1 C + c2 of a pair is that of classes c1 and c2 of C. Attributes as a `Denoiser`'s; `classes` is C.
    """

    def __init__(self, kind: Kind, facts: Facts) -> None:
        classes = math.isqrt(facts.classes)
        if len(facts.shape) != 3 or facts.shape[-1] % 2 or classes**2 != facts.classes:
            raise StillhouseError(
                f"network 'pair-denoiser' is for two images side by side, and these are {facts.shape} of "
                f"{facts.classes} classes: use data of kind 'panels'"
            )
        super().__init__(kind, replace(facts, classes=classes))
        self.classes = classes
        self.first = nn.Embedding(classes, EMBEDDED)
        self.reference = nn.Linear(math.prod(facts.shape) // 2, kind.width)
        nn.init.zeros_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor, reference: Tensor | None = None) -> Tensor:
        """The clean pair expected behind x = pair + sigma noise.

        Args: x [B, C, H, 2 W]; sigma [B], above zero; labels [B]; reference [B, C, H, W]. Returns [B, C, H, 2 W].
        """
        asked = self.label(labels % self.classes)
        if reference is None:
            return self.denoised(x, sigma, asked + self.first(labels // self.classes))
        return self.denoised(x, sigma, asked, self.reference(reference.flatten(1)))
