"""How one signal is laid out in a record: dense, or the top k of a distribution with the mass of the rest."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stillhouse.engine.contracts import Signals
from stillhouse.errors import StillhouseError, nearest

Columns = Mapping[str, np.ndarray]
"""Arrays [B, ...] by column name, as they lie in the records."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_ON_DISK = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}  # numpy has no bfloat16: its bits


@dataclass(frozen=True)
class Dense:
    """Every value of the signal, at a chosen precision.

    `float32` gives back what the teacher gave, bit for bit; `float16` and `bfloat16` halve the
    bytes at a relative error of at most 2^-11 and 2^-8 a value.
    """

    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    shape: tuple[int, ...] = ()
    """Of one example; taken from the first signals that are stored."""

    def fitted(self, signal: Tensor) -> Dense:
        """This layout for a signal [B, *shape]."""
        if self.dtype not in DTYPES:
            raise StillhouseError(f"a store holds no {self.dtype!r}; {nearest(self.dtype, DTYPES)}")
        return replace(self, shape=tuple(signal.shape[1:]))

    def columns(self, name: str) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, numpy type and shape of each column of a record."""
        return [(name, _ON_DISK[self.dtype], self.shape)]

    def gives(self, name: str) -> list[str]:
        """The signals that can be read back."""
        return [name]

    def encode(self, name: str, signal: Tensor) -> Columns:
        """[B, *shape] -> columns. Raises StillhouseError where a finite value overflows the precision."""
        cast = signal.detach().to(DTYPES[self.dtype])
        if bool((cast.isinf() & signal.isfinite()).any()):
            raise StillhouseError(
                f"{name!r} reaches {signal.abs().max():.3g}, which {self.dtype} cannot hold: store it as bfloat16 "
                "or float32"
            )
        bits = cast.cpu().contiguous()
        return {name: (bits.view(torch.uint16) if self.dtype == "bfloat16" else bits).numpy()}

    def decode(self, name: str, columns: Columns, wants: Collection[str]) -> Signals:
        """columns -> {name: [B, *shape], fp32}."""
        bits = torch.from_numpy(np.ascontiguousarray(columns[name]))
        return {name: (bits.view(torch.bfloat16) if self.dtype == "bfloat16" else bits).float()}


@dataclass(frozen=True)
class TopK:
    """The k most likely of V classes and the mass of all others, for logits [B, ..., V].

    With p = softmax(logits / temperature), a position holds log p of its top k (float16), their
    ids (16 bits up to 65,536 classes, else 32) and the log of the tail mass, 1 - sum of the top k
    (float32): k (2 + 2) + 4 bytes, or k (2 + 4) + 4. float16 and not bfloat16, because log p has
    8 times the resolution in it and cannot leave its range.

    Read back, the head is scaled so that head and tail sum to one. `<name>` gives logits over all
    V classes, temperature * log p, with the tail mass spread evenly over the classes outside the
    top k: at the same temperature exact on the head and in the tail's sum, wrong only in how the
    tail is shared out. That error is KL(p || p_read) = tail * (log(V - k) - entropy of the tail),
    and in the gradient q - p of forward KL at most 2 * tail in L1 norm. At another temperature the
    tail's sum is wrong too: store at the temperature of the loss.
    `<name>.topk.values`, `.topk.indices` and `.topk.tail` give log p, ids and log tail mass, for
    losses that need no V-wide target.
    """

    k: int
    temperature: float = 1.0
    shape: tuple[int, ...] = ()
    """Of one example, without V; taken from the first signals that are stored."""
    classes: int = 0
    """V; taken from the first signals that are stored."""

    def fitted(self, signal: Tensor) -> TopK:
        """This layout for logits [B, *shape, V]."""
        classes = signal.shape[-1]
        if signal.dim() < 2 or not 1 <= self.k <= classes:
            raise StillhouseError(f"the top {self.k} of logits of shape {list(signal.shape)} do not exist")
        if not self.temperature > 0:
            raise StillhouseError(f"the temperature of a store must be positive, not {self.temperature}")
        return replace(self, shape=tuple(signal.shape[1:-1]), classes=classes)

    def columns(self, name: str) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, numpy type and shape of each column of a record."""
        ids = "<u2" if self.classes <= 1 << 16 else "<u4"
        return [
            (f"{name}.topk.tail", "<f4", self.shape),
            (f"{name}.topk.values", "<f2", (*self.shape, self.k)),
            (f"{name}.topk.indices", ids, (*self.shape, self.k)),
        ]

    def gives(self, name: str) -> list[str]:
        """The signals that can be read back."""
        return [name, f"{name}.topk.values", f"{name}.topk.indices", f"{name}.topk.tail"]

    def encode(self, name: str, signal: Tensor) -> Columns:
        """Logits [B, *shape, V] -> columns."""
        scaled = signal.detach().float() / self.temperature
        mass = scaled.logsumexp(-1, keepdim=True)
        top, ids = scaled.topk(self.k, dim=-1)
        tail = scaled.scatter(-1, ids, -math.inf).logsumexp(-1) - mass.squeeze(-1)
        return {
            f"{name}.topk.tail": tail.cpu().numpy(),
            f"{name}.topk.values": (top - mass).to(torch.float16).cpu().numpy(),
            f"{name}.topk.indices": ids.cpu().numpy(),
        }

    def decode(self, name: str, columns: Columns, wants: Collection[str]) -> Signals:
        """columns -> log p and ids [B, *shape, k], log tail mass [B, *shape]; logits [B, *shape, V] if wanted."""
        tail = torch.from_numpy(np.ascontiguousarray(columns[f"{name}.topk.tail"]))
        top = torch.from_numpy(np.ascontiguousarray(columns[f"{name}.topk.values"])).float()
        ids = torch.from_numpy(columns[f"{name}.topk.indices"].astype(np.int64))
        top = top + (_log_one_minus_exp(tail) - top.logsumexp(-1)).unsqueeze(-1)
        signals = {f"{name}.topk.values": top, f"{name}.topk.indices": ids, f"{name}.topk.tail": tail}
        if name in wants:
            others = self.classes - self.k
            each = tail - math.log(others) if others else tail
            dense = each.unsqueeze(-1).repeat(*[1] * tail.dim(), self.classes)
            signals[name] = self.temperature * dense.scatter_(-1, ids, top)
        return signals


Layout = Dense | TopK
_LAYOUTS: dict[str, type[Dense] | type[TopK]] = {"dense": Dense, "topk": TopK}


def to_json(layout: Layout) -> dict[str, Any]:
    """A layout as plain data."""
    word = next(word for word, cls in _LAYOUTS.items() if isinstance(layout, cls))
    return {"layout": word, **asdict(layout), "shape": list(layout.shape)}


def from_json(data: Mapping[str, Any]) -> Layout:
    """The layout that `to_json` described."""
    options = {**data, "shape": tuple(data["shape"])}
    return _LAYOUTS[options.pop("layout")](**options)


def _log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x <= 0, exact at both ends."""
    near = x > -math.log(2)
    return torch.where(near, (-torch.expm1(x)).log(), torch.log1p(-x.exp()))
