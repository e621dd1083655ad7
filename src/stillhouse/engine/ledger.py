"""What a run costs: forward passes, examples and tokens of every role, and the time of every stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Ledger:
    """Counts by role name. Kept in checkpoints, so that a resumed run has spent what it spent."""

    def __init__(self) -> None:
        self.roles: dict[str, dict[str, float]] = {}
        self.seconds = 0.0

    @contextmanager
    def watching(self, roles: dict[str, nn.Module]) -> Iterator[None]:
        """Count the forward passes of these modules while the block runs."""
        handles = [
            module.register_forward_pre_hook(self._counter(name), with_kwargs=True) for name, module in roles.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _counter(self, name: str):
        row = self.roles.setdefault(name, {"forwards": 0, "examples": 0, "tokens": 0})

        def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            row["forwards"] += 1
            seen = args[0] if args else kwargs.get("input_ids")
            if isinstance(seen, Tensor) and seen.dim() > 0:
                row["examples"] += seen.shape[0]
                if not seen.is_floating_point() and seen.dim() == 2:
                    row["tokens"] += seen.numel()

        return count

    def state_dict(self) -> dict[str, Any]:
        return {"roles": {name: dict(row) for name, row in self.roles.items()}, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, row in state["roles"].items():
            self.roles.setdefault(name, {}).update(row)
        self.seconds = state["seconds"]
