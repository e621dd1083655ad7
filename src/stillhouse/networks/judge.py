"""Small classifiers of real images that judge others: trained at once, from a seed of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Facts, Source
from stillhouse.engine.seeds import derive, seeded
from stillhouse.errors import StillhouseError
from stillhouse.networks.kinds import MLP, NetworkKind

LR = 3e-3
EXPERT_STEPS = 1000
EXPERT = MLP(hidden=[256], dropout=0.2)


def trained_judge(
    name: str,
    kind: NetworkKind,
    examples: Callable[[Tensor], tuple[Tensor, Tensor]],
    count: int,
    facts: Facts,
    *,
    steps: int,
    batch_size: int,
    device: Any,
) -> Any:
    """A classifier fitted to `count` examples, in eval mode; the same for the same name and examples.

    Args: examples: rows [B] -> images [B, C, H, W] in [0, 1] and classes [B], on the device.
    """
    with seeded(derive(0, name)):
        network: nn.Module = kind.build(facts).to(device).train()
    rng = torch.Generator().manual_seed(derive(0, name, "order"))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=1e-2)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        images, classes = examples(torch.randint(count, (batch_size,), generator=rng))
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(network(images), classes).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        falling.step()
    return network.eval()


class Expert:
    """Tells the class and the domain of single images, by one half or the other of real pairs.

    A multilayer perceptron with an output for every class in every domain, which sees the first images of the pairs.

    Args:
        source: pairs side by side, as data of kind `panels` gives them, with the first image's `domain`.
        facts: of the pairs.
        half: 0 or 1: two experts of unlike halves have seen no image in common, and begin differently.

    Raises StillhouseError for pairs without a domain.
    """

    def __init__(self, source: Source, facts: Facts, *, half: int, device: Any) -> None:
        order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
        batch = source.fetch(order.tensor_split(2)[half], None)
        if "domain" not in batch:
            raise StillhouseError("whether two images are of one domain is told for data of kind panels alone")
        images = batch["image"].chunk(2, -1)[0].to(device)
        classes, self.domains = isqrt(facts.classes), int(batch["domain"].max()) + 1
        joint = (batch["labels"] // classes * self.domains + batch["domain"]).to(device)
        self.network = trained_judge(
            f"expert {half}",
            EXPERT,
            lambda rows: (images[rows], joint[rows]),
            len(images),
            replace(facts, shape=tuple(images.shape[1:]), classes=classes * self.domains, names=()),
            steps=EXPERT_STEPS,
            batch_size=128,
            device=device,
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class and domain [B] of images [B, C, H, W] in [0, 1]: the likeliest of each, whatever the other is."""
        joint = self.network(images).log_softmax(-1).view(len(images), -1, self.domains)
        return joint.logsumexp(2).argmax(1), joint.logsumexp(1).argmax(1)
