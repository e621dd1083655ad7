"""Arrays from a file as labelled examples."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stillhouse.engine.contracts import IGNORED, Data, Facts, Source
from stillhouse.engine.paths import resolve_file
from stillhouse.errors import StillhouseError, nearest
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.kinds import Tensors
from stillhouse.sources.splits import by_class
from stillhouse.sources.table import Rows

SEED = 0
TASKS = {1: "classification", 2: "multi-label", 3: "segmentation"}
"""By how many dimensions the labels have."""
NO_LABEL = 255
"""How a pixel without a label is written in files."""


def tensors(kind: Tensors) -> Data:
    """The splits in the file `kind.path`: `image` where an example has several dimensions, `features` where it has one.

    Raises StillhouseError for a file that cannot be read as arrays alone, a split that is missing, arrays of unequal
    length or shape, values that are not finite, and labels of another form.
    """
    path = resolve_file(kind.path, "data.path")
    arrays = _read(path)
    x, y = _split(arrays, "train", path)
    tested = _split(arrays, "test", path)
    if "validation_x" in arrays:
        held_out = _split(arrays, "validation", path)
    else:
        rows, kept = by_class(y if y.dim() == 1 else torch.zeros(len(y)), [kind.validation], seed=SEED)
        held_out, (x, y) = (x[rows], y[rows]), (x[kept], y[kept])
    for name, (other, labels) in {"test": tested, "validation": held_out}.items():
        if other.shape[1:] != x.shape[1:] or labels.shape[1:] != y.shape[1:]:
            raise StillhouseError(
                f"{path}: training examples have shape {list(x.shape[1:])} and labels {list(y.shape[1:])}, those of "
                f"{name} {list(other.shape[1:])} and {list(labels.shape[1:])}"
            )
    facts = _facts(kind, x, [y, tested[1], held_out[1]])
    return Data(_source(x, y), _source(*held_out), _source(*tested), facts)


def _facts(kind: Tensors, x: Tensor, labels: list[Tensor]) -> Facts:
    task = TASKS[labels[0].dim()]
    several = task == "multi-label"
    found = labels[0].shape[1] if several else max(int(one.max()) + 1 for one in labels)
    if kind.names and (len(kind.names) < found or (several and len(kind.names) != found)):
        raise StillhouseError(f"data.names names {len(kind.names)} classes, and the labels have {found}")
    return Facts(task, tuple(x.shape[1:]), classes=max(found, len(kind.names)), names=tuple(kind.names))


def _source(x: Tensor, y: Tensor) -> Source:
    if x.dim() == 2:
        return Rows(x.float() / 255 if x.dtype == torch.uint8 else x, y)
    content = hashlib.sha256(x.contiguous().numpy().tobytes() + y.contiguous().numpy().tobytes())
    return ImageArray(x, y, fingerprint=content.hexdigest())


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}
    except (SafetensorError, ValueError, OSError, TypeError, AttributeError) as error:
        raise StillhouseError(
            f"{path} cannot be read as arrays alone ({error}); it must be a .safetensors file or a .npz without objects"
        ) from error


def _split(arrays: dict[str, Tensor], name: str, path: Path) -> tuple[Tensor, Tensor]:
    """The examples [N, ...] and classes [N] of a split, checked."""
    for wanted in (f"{name}_x", f"{name}_y"):
        if wanted not in arrays:
            raise StillhouseError(f"{path} has no array {wanted!r}; {nearest(wanted, arrays)}")
    x, y = arrays[f"{name}_x"], arrays[f"{name}_y"]
    if len(x) != len(y) or not len(x) or x.dim() < 2:
        raise StillhouseError(
            f"{path}: {name}_x has shape {list(x.shape)} and {name}_y {list(y.shape)}; one label for each of [N, ...] "
            "examples is needed"
        )
    y = _labels(y, x)
    if y is None:
        raise StillhouseError(
            f"{path}: {name}_y must hold one class an example, whole numbers from 0 [N]; zeros and ones [N, C]; or one "
            "class a pixel [N, H, W]"
        )
    if x.dtype != torch.uint8:
        x = x.float()
        if not x.isfinite().all():
            raise StillhouseError(f"{path}: {name}_x holds values that are not finite")
    return x, y


def _labels(y: Tensor, x: Tensor) -> Tensor | None:
    """The labels as terms take them; None where they are of no known form."""
    if y.dim() == 2:
        return y.float() if torch.isin(y, torch.tensor([0, 1]).to(y.dtype)).all() else None
    if y.is_floating_point() or y.dim() not in TASKS or int(y.min()) < 0:
        return None
    if y.dim() == 1:
        return y.long()
    fits = x.dim() == 4 and y.shape[1:] == x.shape[2:]
    return y.long().masked_fill(y == NO_LABEL, IGNORED) if fits else None
