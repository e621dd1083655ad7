"""A class at every place, a pixel or a token: what a model answers, and for what share something holds."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings


def share(found: Findings, name: str, holds: Tensor, counts: Tensor) -> None:
    """Add the share of the places that count for which something holds, [N, ...] each: each example's share, averaged
    over the examples that have such places."""
    places = counts.flatten(1).sum(1)
    each = ((holds & counts).flatten(1).sum(1) / places.clamp(min=1)).double()[places > 0]
    found.metrics[name] = each.mean().item()
    found.per_example[name] = each.tolist()


def place_answers(arm: Arm, context: Context) -> tuple[Tensor, Tensor]:
    """The most likely class of each place of the split, and its label: [N, ...] each, on the CPU."""
    key = ("places", arm.name, context.source.fingerprint)
    if key not in context.memo:
        asked = []
        with measuring(arm.model):
            for batch in batches(context.source, context.batch_size, context.device):
                logits = arm.model.signals(batch)["logits"]  # [B, ..., C]
                asked.append((logits.argmax(-1).cpu(), batch["labels"].cpu()))
        guesses, labels = (torch.cat(side) for side in zip(*asked, strict=True))
        context.memo[key] = (guesses, labels)
    return context.memo[key]
