"""A multilayer perceptron."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
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

    def fit(self, x: Tensor, y: Tensor, seed: int) -> None:
        """Logistic regression on inputs [N, ...] and classes [N], L2-regularised as scikit-learn does by itself.

        Raises StillhouseError for a network with hidden layers, or where a class has no example.
        """
        from sklearn.linear_model import LogisticRegression

        layer = self.layers[0]
        assert isinstance(layer, nn.Linear)
        if len(self.layers) > 1 or layer.out_features == 1:
            raise StillhouseError("weights: fitted is logistic regression, which an mlp without hidden layers can hold")
        if len(y.unique()) < layer.out_features:
            raise StillhouseError(f"logistic regression needs examples of all {layer.out_features} classes")
        model = LogisticRegression(max_iter=2000, random_state=seed % 2**32).fit(
            x.flatten(1).cpu().numpy(), y.cpu().numpy()
        )
        weight, bias = torch.from_numpy(model.coef_).float(), torch.from_numpy(model.intercept_).float()
        if layer.out_features == 2:  # scikit-learn holds one row: the second class's odds
            weight, bias = torch.cat([0 * weight, weight]), torch.cat([0 * bias, bias])
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image.flatten(1))
