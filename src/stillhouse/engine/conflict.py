"""How the terms of a loss pull at the parameters they share."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Loss, Losses
from stillhouse.engine.process import Process
from stillhouse.engine.reduction import gradients

COSINE = "cosine/"
"""What a pair of terms, "a ~ b", has before its name in the log."""


def cosines(losses: Losses, parameters: Iterable[nn.Parameter], process: Process) -> dict[str, float]:
    """The cosine between the gradients of each pair of weighted terms, over the batches of all processes.

    Yu et al. 2020, arXiv:2001.06782, definition 1: two terms conflict where it is negative. By how much a term is
    divided does not matter to it. A term without a gradient at these parameters is in no pair; nor is one whose
    gradient is not finite. The graph is kept, and no `.grad` is touched: the update's own backward pass comes after.
    """
    terms = {name: loss for name, loss in losses.items() if loss.values.requires_grad}
    if len(terms) < 2:
        return {}
    shared = [parameter for parameter in parameters if parameter.requires_grad]
    flat = {name: process.sum(_gradient(loss, shared)) for name, loss in terms.items()}
    unit = {name: gradient / gradient.norm() for name, gradient in flat.items()}
    unit = {name: direction for name, direction in unit.items() if bool(direction.isfinite().all())}
    return {f"{COSINE}{a} ~ {b}": float(unit[a] @ unit[b]) for a, b in combinations(unit, 2)}


def _gradient(loss: Loss, parameters: list[nn.Parameter]) -> Tensor:
    """The gradient of one weighted term's sum, all parameters in one row, [P] in fp32."""
    roots, seeds = gradients(Losses(term=loss), [1.0])
    found = torch.autograd.grad(roots, parameters, seeds, retain_graph=True, allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1).float() for g, p in pairs])
