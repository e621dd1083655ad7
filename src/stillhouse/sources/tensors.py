"""Arrays from a file as labelled examples."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stillhouse.engine.contracts import Data, Facts
from stillhouse.engine.paths import resolve_file
from stillhouse.errors import StillhouseError, nearest
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.kinds import Tensors
from stillhouse.sources.splits import by_class

SEED = 0


def tensors(kind: Tensors) -> Data:
    """The splits in the file `kind.path`, served as `image` whatever their shape [N, ...] is.

    Raises StillhouseError for a file that cannot be read as arrays alone, a split that is missing, arrays of unequal
    length or shape, values that are not finite, and labels that are not classes.
    """
    path = resolve_file(kind.path, "data.path")
    arrays = _read(path)
    x, y = _split(arrays, "train", path)
    tested = _split(arrays, "test", path)
    if "validation_x" in arrays:
        held_out = _split(arrays, "validation", path)
    else:
        rows, kept = by_class(y, [kind.validation], seed=SEED)
        held_out, (x, y) = (x[rows], y[rows]), (x[kept], y[kept])
    for name, (other, _) in {"test": tested, "validation": held_out}.items():
        if other.shape[1:] != x.shape[1:]:
            raise StillhouseError(
                f"{path}: training examples have shape {list(x.shape[1:])}, those of {name} {list(other.shape[1:])}"
            )
    classes = max(len(kind.names), *(int(labels.max()) + 1 for labels in (y, tested[1], held_out[1])))
    facts = Facts("classification", tuple(x.shape[1:]), classes=classes, names=tuple(kind.names))
    return Data(_source(x, y), _source(*held_out), _source(*tested), facts)


def _source(x: Tensor, y: Tensor) -> ImageArray:
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
            f"{path}: {name}_x has shape {list(x.shape)} and {name}_y {list(y.shape)}; [N, ...] and [N] are needed"
        )
    if y.dim() != 1 or y.is_floating_point() or int(y.min()) < 0:
        raise StillhouseError(f"{path}: {name}_y must hold one class an example, whole numbers from 0")
    if x.dtype != torch.uint8:
        x = x.float()
        if not x.isfinite().all():
            raise StillhouseError(f"{path}: {name}_x holds values that are not finite")
    return x, y.long()
