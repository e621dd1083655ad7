"""What makes two teachers, views and inputs the same: hashes of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from stillhouse.engine.contracts import Batch, Signals
from stillhouse.errors import StillhouseError
from stillhouse.views.model import Model

KEY = np.dtype("V16")
"""The key of an input: the first 16 bytes of a SHA-256."""


class Teacher(Protocol):
    """Whatever gives signals for a batch."""

    def signals(self, batch: Batch, wants: Iterable[str] = ("logits",)) -> Signals: ...


@dataclass(frozen=True)
class Identity:
    """Whose signals they are: a hash of the teacher's weights, and a word for its view."""

    teacher: str
    view: str

    def differences(self, other: Identity) -> list[str]:
        """Which of the two differ, in words."""
        words = []
        if self.teacher != other.teacher:
            words.append(f"the teacher ({self.teacher[:12]} here, {other.teacher[:12]} there)")
        if self.view != other.view:
            words.append(f"the view ({self.view!r} here, {other.view!r} there)")
        return words


def identity_of(teacher: Any) -> Identity:
    """The identity of a teacher: one it declares itself (`identity`), or a hash of its weights and its view's word.

    Raises StillhouseError for a teacher that is no module and declares none.
    """
    declared = getattr(teacher, "identity", None)
    if isinstance(declared, Identity):
        return declared
    if isinstance(teacher, Model):
        return Identity(weights_hash(teacher.network), teacher.view.fingerprint)
    if isinstance(teacher, nn.Module):
        return Identity(weights_hash(teacher), "its own")
    raise StillhouseError(
        f"{type(teacher).__name__} has no weights to tell it by: give it an attribute `identity`, "
        "a stillhouse.store.Identity that changes when its answers do"
    )


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over the class and over name, type, shape and bytes of every parameter and buffer, by name."""
    digest = hashlib.sha256(type(module).__qualname__.encode())
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"|{name}:{value.dtype}:{tuple(value.shape)}|".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def input_keys(batch: Batch, names: Iterable[str]) -> np.ndarray:
    """The keys [B] of a batch's inputs: hashes of the rows of the named fields."""
    names = sorted(names)
    absent = [name for name in names if name not in batch]
    if absent:
        raise StillhouseError(f"the store tells inputs by {', '.join(names)}, and the batch has no {', '.join(absent)}")
    head = hashlib.sha256()
    fields = []
    for name in names:
        value = batch[name].detach()
        head.update(f"|{name}:{value.dtype}:{tuple(value.shape[1:])}".encode())
        fields.append(value.cpu().reshape(len(value), -1).contiguous().view(torch.uint8))
    rows = fields[0] if len(fields) == 1 else torch.cat(fields, dim=1)
    content, width = rows.numpy().reshape(-1).data, rows.shape[1]
    keys = []
    for start in range(0, len(content), width):
        digest = head.copy()
        digest.update(content[start : start + width])
        keys.append(digest.digest()[: KEY.itemsize])
    return np.frombuffer(b"".join(keys), dtype=KEY)


class Watched(dict[str, Any]):
    """A batch that remembers which of its fields were read."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.update({name} & super().keys())
        return super().get(name, default)

    def __iter__(self) -> Iterator[str]:
        self.seen.update(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        self.seen.update(super().keys())
        return super().keys()

    def values(self) -> Any:
        self.seen.update(super().keys())
        return super().values()

    def items(self) -> Any:
        self.seen.update(super().keys())
        return super().items()

    def copy(self) -> Any:
        return dict(self.items())

    def __or__(self, other: Any) -> Any:
        return dict(self.items()) | other
