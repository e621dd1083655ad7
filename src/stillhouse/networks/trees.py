"""Ensembles of decision trees as networks: fitted by scikit-learn, asked in torch, kept as tensors without a pickle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.networks.kinds import Trees as Kind


class Trees(nn.Module):
    """Gradient-boosted trees (Friedman 2001) or a random forest (Breiman 2001), as scikit-learn fits them.

    Input [B, ...], flattened; `logits` [B, classes] whose softmax are the ensemble's probabilities. There is room for
    2^(depth + 1) - 1 nodes a tree; a node without children is a leaf. All is in buffers: gradients change nothing.
    """

    feature: Tensor
    threshold: Tensor
    below: Tensor
    value: Tensor
    base: Tensor

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        self.kind, self.classes, self.inputs = kind, facts.classes, math.prod(facts.shape)
        trees = kind.trees * (facts.classes if kind.style == "boosted" and facts.classes > 2 else 1)
        nodes = 2 ** (kind.depth + 1) - 1
        self.register_buffer("feature", torch.zeros(trees, nodes, dtype=torch.long))
        self.register_buffer("threshold", torch.zeros(trees, nodes, dtype=torch.float64))
        self.register_buffer("below", torch.zeros(trees, nodes, 2, dtype=torch.long))
        self.register_buffer("value", torch.zeros(trees, nodes, facts.classes, dtype=torch.float64))
        self.register_buffer("base", torch.zeros(facts.classes, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        seen = x.flatten(1).float().double()  # [B, D]: scikit-learn holds fp32 inputs against fp64 thresholds
        tree = torch.arange(len(self.feature), device=x.device)  # [T]
        node = torch.zeros(len(x), len(tree), dtype=torch.long, device=x.device)  # [B, T]: all at their roots
        for _ in range(self.kind.depth):
            right = seen.gather(1, self.feature[tree, node]) > self.threshold[tree, node]
            child = self.below[tree, node, right.long()]
            node = torch.where(child > 0, child, node)
        total = self.base + self.value[tree, node].sum(1)  # [B, C]
        if self.kind.style == "boosted":
            return total.float()
        return (total / len(tree)).clamp(min=self.kind.least).log().float()

    def fit(self, x: Tensor, y: Tensor, seed: int) -> None:
        """Fit to inputs [N, ...] and classes [N]. Raises StillhouseError where a class has no example."""
        missing = sorted(set(range(self.classes)) - set(y.unique().tolist()))
        if missing:
            raise StillhouseError(f"trees are fitted to all classes, and {missing[:4]} have no example")
        inputs, labels = x.flatten(1).float().cpu().numpy(), y.cpu().numpy()
        (self._fit_boosted if self.kind.style == "boosted" else self._fit_forest)(inputs, labels, seed)

    def _fit_boosted(self, x: np.ndarray, y: np.ndarray, seed: int) -> None:
        from sklearn.ensemble import GradientBoostingClassifier

        model: Any = GradientBoostingClassifier(
            n_estimators=self.kind.trees,
            max_depth=self.kind.depth,
            learning_rate=self.kind.learning_rate,
            subsample=self.kind.subsample,
            random_state=seed,
        ).fit(x, y)
        binary = self.classes == 2
        for number, tree in enumerate(model.estimators_.ravel()):  # [trees, classes], class by class
            told = torch.zeros(tree.tree_.node_count, self.classes, dtype=torch.float64)
            told[:, 1 if binary else number % self.classes] = torch.from_numpy(tree.tree_.value[:, 0, 0])
            self._put(number, tree.tree_, self.kind.learning_rate * told)
        share = torch.from_numpy(model.init_.class_prior_).clamp(min=1e-300)
        self.base.copy_(torch.stack([torch.zeros(()), (share[1] / share[0]).log()]) if binary else share.log())

    def _fit_forest(self, x: np.ndarray, y: np.ndarray, seed: int) -> None:
        from sklearn.ensemble import RandomForestClassifier

        model = RandomForestClassifier(self.kind.trees, max_depth=self.kind.depth, random_state=seed).fit(x, y)
        for number, tree in enumerate(model.estimators_):
            counts = torch.from_numpy(tree.tree_.value[:, 0])  # [nodes, C]
            self._put(number, tree.tree_, counts / counts.sum(1, keepdim=True))

    def _put(self, number: int, tree: Any, value: Tensor) -> None:
        """Take over one of scikit-learn's trees; its leaves' children are -1 there and 0 here."""
        count = tree.node_count
        self.feature[number, :count] = torch.from_numpy(tree.feature).clamp(min=0)
        self.threshold[number, :count] = torch.from_numpy(tree.threshold)
        sides = np.stack([tree.children_left, tree.children_right], axis=1)
        self.below[number, :count] = torch.from_numpy(sides).clamp(min=0)
        self.value[number, :count] = value
