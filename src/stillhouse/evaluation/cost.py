"""What an arm costs to use: parameters, floating-point operations and time an example."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from stillhouse.evaluation.answers import measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.kinds import Cost

PASSES = 9
"""Timed forward passes; the median counts."""


def cost(kind: Cost, arm: Arm, context: Context) -> Findings:
    """Parameters, and the cost of the forward pass that answers one batch, divided by its examples.

    FLOPs are those of matrix products, convolutions and attention, a multiply-add as two; element-wise
    work is not counted. The time is the median of several passes over one batch, after one that is not timed.
    """
    size = min(kind.batch_size, len(context.source))
    batch = {n: v.to(context.device) for n, v in context.source.fetch(torch.arange(size), None).items()}
    with measuring(arm.model):
        operations = count_flops(lambda: arm.model.signals(batch, ())) / size
        milliseconds = median_seconds(lambda: arm.model.signals(batch, ()), context.device) * 1000 / size
    parameters = sum(p.numel() for p in arm.model.network.parameters())
    threads = torch.get_num_threads()
    how = (
        f"the median of {PASSES} forward passes over a batch of {size} on {context.device} with "
        f"{threads} thread{'s' * (threads > 1)}; FLOPs are those of matrix products, convolutions and attention, "
        "a multiply-add as two."
    )
    return Findings(
        metrics={"parameters": parameters, "flops": operations, "milliseconds": milliseconds},
        figures=[{"kind": "note", "title": "Time an example", "text": how}],
    )


def count_flops(run: Callable[[], Any]) -> int:
    """Floating-point operations of one call, a multiply-add as two."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def median_seconds(run: Callable[[], Any], device: Any) -> float:
    """Median seconds of one call, by the wall clock, after a call that is not timed."""
    _finish(run, device)
    taken = []
    for _ in range(PASSES):
        start = time.perf_counter()
        _finish(run, device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _finish(run: Callable[[], Any], device: Any) -> None:
    """Call it, and wait until the device has done what it started."""
    run()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
