"""A network that restores images through features that see all of them at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Facts
from stillhouse.networks.task_kinds import GlobalRestorer as Kind


class Fourier(nn.Module):
    """A 1 x 1 convolution of the spectrum, so that each position sees the whole map, beside a local one.

    Chi et al. 2020 (fast Fourier convolution, NeurIPS): [B, C, H, W] -> the same.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spectral = nn.Conv2d(2 * width, 2 * width, 1)
        self.local = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x, norm="ortho")
        mixed = functional.relu(self.spectral(torch.cat([spectrum.real, spectrum.imag], 1)))
        real, imaginary = mixed.chunk(2, 1)
        return self.local(x) + torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[-2:], norm="ortho")


class GlobalRestorer(nn.Module):
    """Encoder, two Fourier convolutions, decoder; what it adds to the image is learnt.

    After Li et al. 2023 (GloReDi, arXiv:2308.08463), section 3.2. Input [B, C, H, W]; output `logits`, the restored
    image, and `embedding` [B, width, H, W], the global representation.
    """

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        channels = facts.shape[0]
        self.encode = nn.Conv2d(channels, kind.width, 3, padding=1)
        self.first, self.second = Fourier(kind.width), Fourier(kind.width)
        self.decode = nn.Conv2d(kind.width, channels, 3, padding=1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = functional.relu(self.encode(image))
        seen = self.second(functional.relu(self.first(x)))
        return {"logits": image + self.decode(functional.relu(seen)), "embedding": seen}
