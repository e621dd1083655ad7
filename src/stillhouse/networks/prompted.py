"""A denoiser that is told the class by a word, through a frozen encoder of words and a small adapter."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.networks.denoiser import EMBEDDED, Denoiser
from stillhouse.networks.task_kinds import Prompted as Kind

CODE = 64
"""Width of a word's code."""


class Prompted(Denoiser):
    """A denoiser whose table of classes is replaced by words and an adapter, the one part that is trained.

    Ma et al. 2023 (PEA-Diffusion, arXiv:2311.17086), figure 2. All else has the names it has in a `Denoiser`, whose
    weights it is to be given.
    """

    def __init__(self, kind: Kind, facts: Facts) -> None:
        if len(kind.words) != facts.classes:
            raise StillhouseError(
                f"network 'prompted-denoiser' has {len(kind.words)} words for {facts.classes} classes: one each"
            )
        super().__init__(kind.of, facts)
        self.requires_grad_(False)
        self.label = Adapter(kind.words, kind.adapter)


class Adapter(nn.Module):
    """From a class to its word, from the word to its code, and by a perceptron to what the denoiser is told."""

    codes: Tensor

    def __init__(self, words: Iterable[str], width: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.stack([code(word) for word in words]))
        self.mlp = nn.Sequential(nn.Linear(CODE, width), nn.GELU(), nn.Linear(width, EMBEDDED))

    def forward(self, labels: Tensor) -> Tensor:
        """Class indices [B] to [B, EMBEDDED]."""
        return self.mlp(self.codes[labels])


def code(word: str) -> Tensor:
    """A frozen encoding [CODE] of mean square 1: the sum of one random vector for each run of three letters."""
    whole = f"<{word}>"
    runs = [whole[start : start + 3] for start in range(len(whole) - 2)]
    seeds = [zlib.crc32(run.encode()) for run in runs]
    total = torch.stack([torch.randn(CODE, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).sum(0)
    return total / total.square().mean().sqrt()
