"""Checkpoints: a tree of plain values and tensors in one safetensors file.

The file's name carries its checksum, so that a file is known to be whole before it is read:
`student-00000120-1f2e3d4c5b6a7988.safetensors`. It is written under a temporary name, flushed,
then renamed; the last two are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from stillhouse.engine.folder import disk_errors, sync
from stillhouse.errors import StillhouseError

_NAME = re.compile(r"^(?P<stage>[a-z0-9_-]+)-(?P<step>\d{8})-(?P<sum>[0-9a-f]{16})\.safetensors$")


def pack(tree: Any, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    """The tree as JSON, its tensors moved into `tensors`; tensors that share storage are kept once."""
    if isinstance(tree, Tensor):
        key = (tree.data_ptr(), tree.dtype, tuple(tree.shape), tree.stride()) if tree.numel() else None
        if key is not None and key in seen:
            return {"tensor": seen[key]}
        name = str(len(tensors))
        tensors[name] = tree.detach().to("cpu", copy=True).contiguous()
        if key is not None:
            seen[key] = name
        return {"tensor": name}
    if isinstance(tree, dict):
        return {"dict": [[key, pack(value, tensors, seen)] for key, value in tree.items()]}
    if isinstance(tree, tuple):
        return {"tuple": [pack(value, tensors, seen) for value in tree]}
    if isinstance(tree, list):
        return {"list": [pack(value, tensors, seen) for value in tree]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return {"value": tree}
    raise TypeError(f"a checkpoint cannot hold a {type(tree).__name__}")


def unpack(node: Any, tensor: Callable[[str], Tensor]) -> Any:
    """The tree that `pack` made this of."""
    ((kind, value),) = node.items()
    if kind == "tensor":
        return tensor(value)
    if kind == "dict":
        return {key: unpack(child, tensor) for key, child in value}
    if kind == "tuple":
        return tuple(unpack(child, tensor) for child in value)
    if kind == "list":
        return [unpack(child, tensor) for child in value]
    return value


def write_tree(path: Path, tree: Any) -> None:
    """Write a tree into one safetensors file."""
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(pack(tree, tensors, {}))
    save_file(tensors or {"0": torch.zeros(1)}, path, metadata={"tree": skeleton})


def read_tree(path: Path) -> Any:
    """The tree in a file that `write_tree` made; its tensors are on the CPU."""
    with safe_open(path, framework="pt", device="cpu") as file:
        skeleton = json.loads(file.metadata()["tree"])
        return unpack(skeleton, file.get_tensor)


def checksum(path: Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    stage: str
    step: int
    sum: str


class Checkpoints:
    """The checkpoints of a run, newest last."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def found(self) -> list[Checkpoint]:
        """All complete files, in the order they were written."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        matches = [(name, match) for name in names if (match := _NAME.match(name))]
        points = [Checkpoint(self.folder / n, m["stage"], int(m["step"]), m["sum"]) for n, m in matches]
        return sorted(points, key=lambda point: (point.path.stat().st_mtime_ns, point.step))

    def save(self, stage: str, step: int, tree: Any) -> Path:
        """Write a checkpoint, then drop those older than the last two."""
        path = write_summed(self.folder, f"{stage}-{step:08d}", tree)
        for old in self.found()[: -self.keep]:
            old.path.unlink(missing_ok=True)
        return path

    def latest(self, stage: str, say: Callable[[str], None]) -> tuple[int, Any] | None:
        """Step and tree of the newest whole checkpoint of a stage; a damaged one is named and passed over."""
        for point in reversed([point for point in self.found() if point.stage == stage]):
            if checksum(point.path) == point.sum:
                return point.step, read_tree(point.path)
            say(f"checkpoint {point.path} is damaged (its checksum is wrong): using the one before it")
            point.path.unlink(missing_ok=True)
        return None


def write_summed(folder: Path, stem: str, tree: Any) -> Path:
    """Write a tree to `<stem>-<checksum>.safetensors` in a folder; the file appears whole or not at all."""
    with disk_errors(folder / stem):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".*.tmp"):
            stale.unlink(missing_ok=True)
        temporary = folder / f".{stem}.tmp"
        try:
            write_tree(temporary, tree)
            sync(temporary)
            path = folder / f"{stem}-{checksum(temporary)}.safetensors"
            os.replace(temporary, path)
            sync(folder)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def read_summed(folder: Path, stem: str) -> Any | None:
    """What `write_summed` wrote under this stem, or None. Raises StillhouseError when it is damaged."""
    for file in sorted(folder.glob(f"{stem}-*.safetensors")):
        digits = file.stem.removeprefix(f"{stem}-")
        if not re.fullmatch(r"[0-9a-f]{16}", digits):
            continue
        if checksum(file) != digits:
            raise StillhouseError(f"{file} is damaged (its checksum is wrong): delete it, and resume makes it again")
        return read_tree(file)
    return None
