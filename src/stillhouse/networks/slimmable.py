"""A multilayer perceptron whose hidden layers can be cut to their first units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Facts
from stillhouse.networks.kinds import Slimmable as Kind


class Slimmable(nn.Module):
    """Linear layers with ReLU between them, on the flattened input [B, ...]; output logits [B, classes].

    The buffer `share` says how much of each hidden layer `forward` uses: the first units, rounded, one at least.
    """

    share: Tensor

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        widths = [math.prod(facts.shape), *kind.hidden, facts.classes]
        self.layers: Sequence[nn.Linear] = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))  # pyright: ignore[reportAttributeAccessIssue]
        self.register_buffer("share", torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        return self.at(image, self.share.item())

    def at(self, image: Tensor, share: float) -> Tensor:
        """The logits with this share of the hidden units."""
        x = image.flatten(1)
        last = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            units = len(layer.bias) if number == last else kept(len(layer.bias), share)
            x = functional.linear(x, layer.weight[:units, : x.shape[1]], layer.bias[:units])
            x = x if number == last else x.relu()
        return x

    def size(self, share: float) -> int:
        """Parameters in use at this share."""
        inputs = self.layers[0].in_features
        units = [kept(layer.out_features, share) for layer in self.layers[:-1]]
        widths = [inputs, *units, self.layers[-1].out_features]
        return sum((before + 1) * after for before, after in pairwise(widths))

    @torch.no_grad()
    def order(self) -> None:
        """Put each hidden layer's units in the order of their importance; the answers at full size stay.

        Importance is the norm of a unit's incoming weights and bias times that of its outgoing weights.
        """
        for before, after in pairwise(self.layers):
            incoming = torch.cat([before.weight, before.bias.unsqueeze(1)], 1).norm(dim=1)
            order = (incoming * after.weight.norm(dim=0)).argsort(descending=True)
            before.weight.copy_(before.weight[order])
            before.bias.copy_(before.bias[order])
            after.weight.copy_(after.weight[:, order])


def kept(units: int, share: float) -> int:
    """How many of a layer's units a share stands for."""
    return max(1, round(share * units))
