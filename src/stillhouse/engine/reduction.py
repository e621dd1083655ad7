"""From unreduced losses to the number that is differentiated: summed once, divided once."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.engine.contracts import Loss, Losses
from stillhouse.engine.process import Process
from stillhouse.errors import RunFailed, StillhouseError


def summed(loss: Loss) -> tuple[Tensor, Tensor | int]:
    """Sum of the values that count, and how many those are.

    `where` may be boolean or a weight; a value that is masked out takes no part, even when it
    is not finite.
    """
    if loss.where is None:
        return loss.values.sum(), loss.values.numel()
    where = loss.where
    if where.shape != loss.values.shape:
        raise StillhouseError(
            f"a loss of shape {tuple(loss.values.shape)} came with a mask of shape {tuple(where.shape)}: "
            "give one mask value for each loss value"
        )
    if where.dtype == torch.bool:
        return loss.values.masked_fill(~where, 0.0).sum(), where.sum()
    return torch.where(where != 0, loss.values * where, 0.0).sum(), where.sum()


def total(losses: Losses, process: Process) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the terms, each divided by its count over all processes; and the terms.

    Summed over the processes, the results and their gradients are those of the global batch.
    A term in which nothing counts is zero.
    """
    sums = {name: summed(loss) for name, loss in losses.items()}
    if process.world > 1:
        counts = torch.stack([torch.as_tensor(c, dtype=torch.float64, device=process.device) for _, c in sums.values()])
        process.sum(counts)
        sums = {name: (value, counts[i]) for i, (name, (value, _)) in enumerate(sums.items())}
    whole: Tensor | None = None
    terms: dict[str, Tensor] = {}
    for name, (value, count) in sums.items():
        share = 1 / _at_least_one(count)
        weighted = value * (losses[name].weight * share)
        whole = weighted if whole is None else whole + weighted
        terms[name] = value.detach() * share
    assert whole is not None, "a turn gave no loss"
    return whole, terms


def shared_count(losses: Losses) -> float:
    """How many values count, the same for every term of a turn.

    Raises StillhouseError when terms count different things: what one micro-batch has to be
    divided by is then not known before the last one was seen.
    """
    counts = {name: float(summed(loss)[1]) for name, loss in losses.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count:g}" for name, count in counts.items())
        raise StillhouseError(
            f"train.accumulate > 1 needs terms that count the same things, and these differ ({listed}): "
            "reduce them to one value an example, or set train.accumulate: 1"
        )
    return next(iter(counts.values()))


def first_nonfinite(terms: dict[str, Tensor]) -> str:
    """The name of the term that is not finite, or of the sum when every term is."""
    return next((name for name, term in terms.items() if not torch.isfinite(term)), "the weighted sum of the terms")


def nonfinite_error(stage: str, step: int, player: str, what: str, saved: str) -> RunFailed:
    """The error that stops a run before a bad update."""
    return RunFailed(
        f"stage {stage!r}, step {step}: {what} of player {player!r} is not finite (NaN or infinite). "
        f"The weights were not updated. {saved} "
        "Lower the learning rate, set train.clip, or let up to N such steps pass with train.skip_nonfinite=N"
    )


def _at_least_one(count: Tensor | int) -> Tensor | int:
    return count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
