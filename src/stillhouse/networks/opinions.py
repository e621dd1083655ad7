"""A network that marks an image's quality as several people would."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Facts
from stillhouse.networks.task_kinds import Opinions as Kind


class Opinions(nn.Module):
    """Convolutions, and several opinions of what they see, each by an attention of its own; the mark is their mean.

    After Chen et al. 2024 (MobileIQA, arXiv:2409.01212), section 3.2: multi-view attention learning.
    Input [B, C, H, W]; output `logits` [B, 1], and `opinions` [B, K, D], what each mark is made from.
    """

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        width = kind.width
        self.conv1 = nn.Conv2d(facts.shape[0], width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.query = nn.Parameter(torch.randn(kind.opinions, 2 * width) / (2 * width) ** 0.5)
        self.views = nn.ModuleList(nn.Linear(2 * width, kind.features) for _ in range(kind.opinions))
        self.marks = nn.ModuleList(nn.Linear(kind.features, 1) for _ in range(kind.opinions))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = functional.relu(self.conv2(functional.relu(self.conv1(image))))
        tokens = x.flatten(2).mT  # [B, H W / 4, 2 width]
        shares = (tokens @ self.query.T / tokens.shape[-1] ** 0.5).softmax(1)  # [B, H W / 4, K]
        seen = shares.mT @ tokens + tokens.mean(1, keepdim=True)  # [B, K, 2 width]
        each = [functional.relu(view(seen[:, k])) for k, view in enumerate(self.views)]
        marks = torch.stack([mark(one) for mark, one in zip(self.marks, each, strict=True)])  # [K, B, 1]
        return {"logits": marks.mean(0), "opinions": torch.stack(each, 1)}
