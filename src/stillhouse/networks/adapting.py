"""A network that takes a step towards what experts of other domains say, before it answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stillhouse.engine.contracts import Facts
from stillhouse.networks.task_kinds import Adapting as Kind
from stillhouse.taps import Taps


class Adapting(nn.Module):
    """A backbone and an aggregator that makes one target of several experts' features.

    Zhong et al. 2022 (Meta-DMoE, arXiv:2210.03885), section 3. Called with images it is its backbone alone;
    `adapted` gives the backbone's parameters after a step, and `answer` what it says with them.
    """

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        self.backbone: nn.Module = kind.of.build(facts)
        self.aggregator = nn.TransformerEncoderLayer(
            kind.width, kind.heads, 2 * kind.width, dropout=0.0, batch_first=True
        )
        self.tap, self.expert_tap, self.rate = kind.tap, kind.expert_tap, kind.rate

    def forward(self, image: Tensor) -> Tensor:
        return self.backbone(image)

    def adapted(self, image: Tensor, experts: Tensor, *, create_graph: bool = False) -> dict[str, Tensor]:
        """theta - rate grad of the mean over images of |f_theta(x) - aggregated(x)|^2.

        Args:
            image: [B, C, H, W], unlabelled.
            experts: their features of it, [B, M, D], D that of the backbone at `tap`.
            create_graph: keep the way back to the backbone's and the aggregator's own parameters.
        """
        target = self.aggregator(experts).mean(1)  # [B, D]
        own: dict[str, Tensor] = dict(self.backbone.named_parameters())
        with Taps(self.backbone, [self.tap]) as kept:
            self.answer(own, image)
        loss = (kept[self.tap] - target).square().sum(1).mean()
        found = torch.autograd.grad(loss, list(own.values()), create_graph=create_graph, allow_unused=True)
        return {
            name: value if gradient is None else value - self.rate * gradient
            for (name, value), gradient in zip(own.items(), found, strict=True)
        }

    def answer(self, parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        """The backbone's logits [B, classes] with these parameters in place of its own."""
        return functional_call(self.backbone, parameters, (image,))
