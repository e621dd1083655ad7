"""A denoiser of small images, conditioned on the noise level and the class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Facts
from stillhouse.networks.kinds import Denoiser as Kind

EMBEDDED = 128
"""Width of what noise level and class are embedded into."""
WAVES = 32
"""Frequencies that the noise level is told by."""


class Denoiser(nn.Module):
    """D(x, sigma, y) = c_skip x + c_out F(c_in x, c_noise, y), Karras et al. 2022 (arXiv:2206.00364), eq. 7.

    F is a residual multilayer perceptron on the flattened image. Noise level and class scale and shift
    what every block sees (Peebles & Xie 2023, arXiv:2212.09748, section 3.2); blocks and output start at
    zero, so that an untrained D is c_skip x, the best linear guess.

    Attributes: `shape` of one image; `sigma_data`, the data's standard deviation that the coefficients are made for.
    """

    waves: Tensor

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        values = math.prod(facts.shape)
        self.shape, self.sigma_data = facts.shape, kind.sigma_data
        self.enter = nn.Linear(values, kind.width)
        self.noise = nn.Sequential(nn.Linear(2 * WAVES, EMBEDDED), nn.SiLU(), nn.Linear(EMBEDDED, EMBEDDED))
        self.label = nn.Embedding(max(facts.classes, 1), EMBEDDED)
        self.modulate = nn.Linear(EMBEDDED, 2 * kind.width * kind.blocks)
        self.blocks = nn.ModuleList(Block(kind.width) for _ in range(kind.blocks))
        self.norm = nn.LayerNorm(kind.width)
        self.leave = nn.Linear(kind.width, values)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.register_buffer("waves", torch.logspace(-2, 5, WAVES, base=2), persistent=False)

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """The clean image expected behind x = image + sigma noise.

        Args: x [B, C, H, W]; sigma [B], above zero; labels [B] class indices. Returns [B, C, H, W].
        """
        return self.denoised(x, sigma, self.label(labels))

    def denoised(self, x: Tensor, sigma: Tensor, asked: Tensor, seen: Tensor | float = 0.0) -> Tensor:
        """D: x [B, C, H, W], sigma [B], asked [B, EMBEDDED]; seen [B, width] beside x, or nothing -> [B, C, H, W]."""
        skip, out, inside, told = coefficients(sigma[:, None], self.sigma_data)  # [B, 1] each
        flat = x.flatten(1)  # [B, C H W]
        return (skip * flat + out * self.network(inside * flat, told, asked, seen)).view_as(x)

    def network(self, flat: Tensor, told: Tensor, asked: Tensor, seen: Tensor | float) -> Tensor:
        """F: flat [B, C H W], told (c_noise) [B, 1], asked and seen as above -> [B, C H W]."""
        phase = told * self.waves  # [B, WAVES]
        given = functional.silu(self.noise(torch.cat([phase.cos(), phase.sin()], 1)) + asked)
        turns = self.modulate(given).chunk(2 * len(self.blocks), 1)  # scale and shift of each block, [B, width]
        hidden = self.enter(flat) + seen
        for number, block in enumerate(self.blocks):
            hidden = block(hidden, turns[2 * number], turns[2 * number + 1])
        return self.leave(self.norm(hidden))


class Block(nn.Module):
    """h + W2 silu(W1 (norm(h) (1 + scale) + shift)), W2 zero at first; all [B, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, hidden: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        seen = torch.addcmul(shift, self.norm(hidden), 1 + scale)
        return hidden + self.second(functional.silu(self.first(seen)))


def coefficients(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in and c_noise of Karras et al. 2022 (arXiv:2206.00364), table 1, of sigma's shape each.

    c_in makes the network's input, and c_out its target, of variance 1 at every noise level, with the least c_out.
    """
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4
