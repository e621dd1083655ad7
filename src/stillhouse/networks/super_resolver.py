"""Networks that enlarge small images, and one that tells enlarged images from others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from stillhouse.engine.contracts import Facts
from stillhouse.networks.task_kinds import NearestExample as NearestKind
from stillhouse.networks.task_kinds import SuperResolver as Kind


class SuperResolver(nn.Module):
    """The bilinear enlargement, and what a multilayer perceptron adds to it.

    Input [B, C, H, W] and, where `controlled`, `trade_off` [B] in [0, 1], 0 where it is not told; output
    [B, C, factor H, factor W].
    """

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        self.factor, self.controlled = kind.factor, kind.controlled
        values = math.prod(facts.shape)
        self.add = perceptron([values + kind.controlled, *kind.hidden, values * kind.factor**2])

    def forward(self, image: Tensor, trade_off: Tensor | None = None) -> Tensor:
        large = functional.interpolate(image, scale_factor=self.factor, mode="bilinear")
        seen = image.flatten(1)
        if self.controlled:
            told = image.new_zeros(len(image)) if trade_off is None else trade_off
            seen = torch.cat([seen, told.unsqueeze(1)], 1)
        return large + self.add(seen).view_as(large)


class NearestExample(nn.Module):
    """The large image of the example whose small one is nearest: example-based super-resolution on whole images.

    After Freeman et al. 2002 (IEEE Computer Graphics and Applications 22(2)). An example that is the input itself is
    passed over, so that the training images have answers of the kind that others have. All is in buffers.
    Input [B, C, H, W]; output [B, C, factor H, factor W], black before it is fitted.
    """

    small: Tensor
    large: Tensor

    def __init__(self, kind: NearestKind, facts: Facts) -> None:
        super().__init__()
        channels, height, width = facts.shape
        self.register_buffer("small", torch.zeros(2, math.prod(facts.shape)))
        self.register_buffer("large", torch.zeros(2, channels, kind.factor * height, kind.factor * width))

    def forward(self, image: Tensor) -> Tensor:
        seen = image.flatten(1)
        nearest = torch.cdist(seen, self.small).topk(2, largest=False).indices  # [B, 2]
        itself = (self.small[nearest[:, 0]] == seen).all(1)
        return self.large[torch.where(itself, nearest[:, 1], nearest[:, 0])]

    def fit(self, x: Tensor, y: Tensor, seed: int) -> None:
        """Keep the small images [N, C, H, W] and the large ones, [N, C, factor H, factor W]."""
        del seed
        self.small, self.large = x.flatten(1), y


class Critic(nn.Module):
    """How much an image looks like those of one kind and not of another, with slopes of at most 1.

    A perceptron with spectral normalisation (Miyato et al. 2018, arXiv:1802.05957). Images [B, C, H, W] and what they
    are to be, `trade_off` [B] -> [B].
    """

    def __init__(self, values: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.layers = perceptron([values + 1, *hidden, 1])
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                spectral_norm(layer)

    def forward(self, image: Tensor, trade_off: Tensor) -> Tensor:
        return self.layers(torch.cat([image.flatten(1), trade_off.unsqueeze(1)], 1)).squeeze(1)


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with leaky rectifiers between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])
