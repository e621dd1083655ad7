"""A classifier with a wider head, whose classes are sums over subclasses."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from stillhouse.engine.contracts import Facts
from stillhouse.networks.kinds import Subclassed as Kind


class Subclassed(nn.Module):
    """Another network with `subclasses` outputs a class; a class has the probability of its subclasses together.

    Output `subclass_logits` [B, classes * subclasses], those of a class side by side, and `logits` [B, classes], their
    log-sum-exp over each class.
    """

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        self.classes, self.subclasses = facts.classes, kind.subclasses
        self.network = kind.of.build(replace(facts, classes=facts.classes * kind.subclasses))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.network(image)
        return {"logits": fine.unflatten(1, (self.classes, -1)).logsumexp(-1), "subclass_logits": fine}
