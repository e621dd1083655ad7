"""From unreduced losses to gradients and means: every term is summed once and divided once.

No sum enters the autograd graph. The gradient of `weight * sum(values * where) / count` is known,
`weight * where / count` for each value, and the backward pass starts from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from stillhouse.engine.contracts import Loss, Losses
from stillhouse.engine.process import Process
from stillhouse.errors import RunFailed, StillhouseError

Count = Tensor | float


def counted(losses: Losses, process: Process) -> Sequence[Count]:
    """How many values of each term count, over all processes: the sums of the masks."""
    counts = [_count(loss) for loss in losses.values()]
    if process.world == 1:
        return counts
    own = [torch.as_tensor(count, dtype=torch.float64, device=process.device) for count in counts]
    return list(process.sum(torch.stack(own)))


def shared_count(losses: Losses) -> float:
    """How many values count, the same for every term of a turn.

    Raises StillhouseError when terms count different things: what one micro-batch has to be
    divided by is then not known before the last one was seen.
    """
    counts = {name: float(_count(loss)) for name, loss in losses.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count:g}" for name, count in counts.items())
        raise StillhouseError(
            f"train.accumulate > 1 needs terms that count the same things, and these differ ({listed}): "
            "reduce them to one value an example, or set train.accumulate: 1"
        )
    return next(iter(counts.values()))


def gradients(losses: Losses, counts: Sequence[Count]) -> tuple[list[Tensor], list[Tensor]]:
    """Where the backward pass starts: the values of each term, and the loss's gradient with respect to them.

    The loss is the weighted sum of the terms, each divided by its count.
    Raises StillhouseError when no term depends on anything that takes gradients.
    """
    roots, seeds = [], []
    for loss, count in zip(losses.values(), counts, strict=True):
        if loss.values.requires_grad:
            roots.append(loss.values)
            seeds.append(_seed(loss, loss.weight / _divisor(count)))
    if not roots:
        raise StillhouseError(
            f"none of the losses ({', '.join(losses)}) depends on a parameter that is trained: "
            "is the student frozen, or its output detached?"
        )
    return roots, seeds


def summed(losses: Losses) -> Tensor:
    """The sum of what counts of each term, [terms] in fp32, without gradients.

    A value that is masked out takes no part, even when it is not finite.
    """
    return torch.stack([_sum(loss.values.detach(), loss.where) for loss in losses.values()])


def means(sums: Tensor, counts: Sequence[Count]) -> list[float]:
    """Each sum over its count; a term in which nothing counts is zero."""
    return [value / float(_divisor(count)) for value, count in zip(sums.tolist(), counts, strict=True)]


def first_nonfinite(terms: Mapping[str, float]) -> str:
    """The name of the term that is not finite, or of the sum when every term is."""
    return next((name for name, term in terms.items() if not math.isfinite(term)), "the weighted sum of the terms")


def nonfinite_error(stage: str, step: int, player: str, what: str, saved: str) -> RunFailed:
    """The error that stops a run before a bad update."""
    return RunFailed(
        f"stage {stage!r}, step {step}: {what} of player {player!r} is not finite (NaN or infinite). "
        f"The weights were not updated. {saved} "
        "Lower the learning rate, set train.clip, or let up to N such steps pass with train.skip_nonfinite=N"
    )


def _count(loss: Loss) -> Count:
    if loss.where is None:
        return loss.values.numel()
    if loss.where.shape != loss.values.shape:
        raise StillhouseError(
            f"a loss of shape {tuple(loss.values.shape)} came with a mask of shape {tuple(loss.where.shape)}: "
            "give one mask value for each loss value"
        )
    return loss.where.sum()


def _divisor(count: Count) -> Count:
    """The count, or one where nothing counts."""
    return torch.where(count > 0, count, 1) if isinstance(count, Tensor) else count or 1


def _seed(loss: Loss, share: Count) -> Tensor:
    """The gradient of the loss with respect to a term's values."""
    if loss.where is not None:
        return (loss.where * share).to(loss.values.dtype)
    if isinstance(share, Tensor):
        return share.to(loss.values.dtype).expand_as(loss.values)
    return torch.full_like(loss.values, share)


def _sum(values: Tensor, where: Tensor | None) -> Tensor:
    if where is not None:
        values = values.masked_fill(where == 0, 0.0)
        values = values if where.dtype == torch.bool else values * where
    return values.sum(dtype=torch.promote_types(values.dtype, torch.float32))
