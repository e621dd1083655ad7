"""This process among its peers: the device, autocast, and sums over all processes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn

from stillhouse.engine.sharding import sharding_asked
from stillhouse.errors import StillhouseError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Process:
    """One of `world` processes started by `accelerate launch` or `torchrun`, or the only one."""

    def __init__(self, device: str | None = None) -> None:
        state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())
        self.rank, self.world = state.process_index, state.num_processes
        self.sharded = self.world > 1 and sharding_asked()
        self.device = (state.device or torch.device("cpu")) if device is None else _device(device)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def autocast(self, precision: str) -> AbstractContextManager:
        """The context in which losses are computed."""
        if precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[precision])

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up every process's gradients, in one message for each dtype; sharded ones were summed on the way."""
        if self.world == 1 or self.sharded:
            return
        by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            by_dtype.setdefault(parameter.dtype, []).append(parameter)
        for group in by_dtype.values():
            flat = torch.cat([p.grad.reshape(-1) for p in group if p.grad is not None])
            dist.all_reduce(flat)
            for parameter, part in zip(group, flat.split([p.numel() for p in group]), strict=True):
                assert parameter.grad is not None
                parameter.grad.copy_(part.view_as(parameter))

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether any process raised it."""
        if self.world == 1:
            return flags
        raised = self.sum(torch.tensor([float(flag) for flag in flags], device=self.device))
        return tuple(bool(value) for value in raised.tolist())

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            dist.barrier()


def from_first(value: Tensor) -> Tensor:
    """The first process's value in every process, in place.

    A method whose control flow hangs on a random draw takes it through this: where players are sharded,
    every process has to call them equally often.
    """
    if dist.is_initialized():
        dist.broadcast(value, 0)
    return value


def anywhere(flag: Tensor) -> bool:
    """Whether any process raised this flag; every process has to ask."""
    raised = flag.float()
    dist.all_reduce(raised)
    return bool(raised)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise StillhouseError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
