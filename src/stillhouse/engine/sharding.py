"""Players spread over the processes: each holds a share of every parameter, gradient and optimizer state.

Method: fully sharded data parallelism (Zhao et al. 2023, arXiv:2304.11277) in PyTorch's form that shards each
parameter on its own (`torch.distributed.fsdp.fully_shard`).
Limits: a player's parameters are to be used in its forward pass alone; frozen roles stay whole in every process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate.utils import str_to_bool
from torch import Tensor, nn


def sharding_asked() -> bool:
    """Whether `accelerate launch --use_fsdp` (or the variable it sets) asks for sharded players."""
    return bool(str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false")))


def shard(module: nn.Module, device: torch.device) -> None:
    """Spread a module's parameters over all processes, in place: each entry of a ModuleList by itself, then the rest.

    Gradients are summed, not averaged: the engine divides by the count of the global batch.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    wholes = list(module) if isinstance(module, nn.ModuleList) else [*_blocks(module), module]
    for block in wholes:
        if not list(block.parameters()):
            continue
        sharded = fully_shard(block, mesh=mesh, reshard_after_forward=True)
        assert isinstance(sharded, FSDPModule)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # a plain sum: gloo knows no scaled one


def gathered(tree: Any, keep: bool = True) -> Any:
    """A tree of plain values and tensors, with every sharded tensor put together again on the CPU.

    Every process has to call this. Those with `keep` False get None in place of the sharded tensors.
    """
    if is_sharded(tree):
        full = tree.full_tensor()
        return full.detach().cpu() if keep else None
    if isinstance(tree, Mapping):
        return {key: gathered(value, keep) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(gathered(value, keep) for value in tree)
    return tree


def placed(value: Any, like: Any) -> Any:
    """A whole tensor (or a mapping of them) spread as `like` is, where that is sharded and of the same shape."""
    if isinstance(value, Mapping):
        return {key: placed(item, like[key] if isinstance(like, Mapping) else like) for key, item in value.items()}
    if is_sharded(like) and isinstance(value, Tensor) and value.shape == like.shape:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return value


def local(value: Tensor) -> Tensor:
    """This process's share of a tensor; all of it where it is not sharded."""
    return cast(Any, value).to_local() if is_sharded(value) else value


def is_sharded(value: Any) -> bool:
    """Whether this is a DTensor; told without importing its class, which takes a second."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The entries of the outermost ModuleLists."""
    found: list[nn.Module] = []
    for child in module.children():
        found += list(child) if isinstance(child, nn.ModuleList) else _blocks(child)
    return found
