"""A multilayer perceptron."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from stillhouse.engine.contracts import Facts
from stillhouse.networks.kinds import MLP as Kind


class MLP(nn.Module):
    """Linear layers with ReLU between them, on the flattened input [B, ...]; output logits [B, classes]."""

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        widths = [math.prod(facts.shape), *kind.hidden, facts.classes]
        self.layers = nn.Sequential()
        for number, (before, after) in enumerate(pairwise(widths)):
            if number:
                self.layers.append(nn.ReLU())
                if kind.dropout:
                    self.layers.append(nn.Dropout(kind.dropout))
            self.layers.append(nn.Linear(before, after))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image.flatten(1))
