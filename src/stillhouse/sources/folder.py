"""Labelled images or sounds in folders: a folder for each class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from stillhouse.engine.contracts import Data, Facts, Source
from stillhouse.engine.paths import resolve
from stillhouse.errors import StillhouseError
from stillhouse.sources.decoded import Decoded, decode_files, served
from stillhouse.sources.kinds import AudioFolder, ImageFolder
from stillhouse.sources.splits import by_class

SEED = 0
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


def image_folder(kind: ImageFolder) -> Data:
    """The images under `kind.path`, in three splits. Raises StillhouseError as `_in_three` and `decode_files` say."""

    def read(files: list[Path], labels: list[int]) -> Decoded:
        return decode_files(files, labels, size=kind.size, mode="L" if kind.grey else "RGB")

    augmented = partial(served, pad=kind.crop, flip=kind.flip, plain_with="data.crop=0 data.flip=false")
    return _in_three(kind, "images", ENDINGS, read, augmented, served)


def audio_folder(kind: AudioFolder) -> Data:
    """The sounds under `kind.path`, in three splits. Raises StillhouseError as `_in_three` and `decode_sounds` say."""
    from stillhouse.sources.sound import SOUNDS, Sounds, decode_sounds

    read = partial(decode_sounds, rate=kind.rate, samples=round(kind.seconds * kind.rate))
    return _in_three(kind, "sounds", SOUNDS, read, Sounds, Sounds)


def _in_three(
    kind: ImageFolder | AudioFolder,
    what: str,
    endings: set[str],
    read: Callable[[list[Path], list[int]], Decoded],
    train_source: Callable[[Decoded, Tensor], Source],
    source: Callable[[Decoded, Tensor], Source],
) -> Data:
    """What lies under `kind.path`: `train/<class>/*` and `test/<class>/*`, or `<class>/*`, then split here.

    Classes are the folders' names in order. Raises StillhouseError for a folder that is not there or holds none of
    the files, for a test class that is not in training, and for a class of one or two examples where the split is made
    here.
    """
    folder = resolve(kind.path)
    if not folder.is_dir():
        raise StillhouseError(
            f"data.path: there is no folder {folder}. Relative paths start at --root (now {resolve('.')})"
        )
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        names = _classes(folder / "train")
        train, test = (read(*_files(folder / split, names, what, endings)) for split in ("train", "test"))
        held_out, kept = by_class(train.labels, [kind.validation], seed=SEED)
        tested = torch.arange(len(test.labels))
    else:
        names = _classes(folder)
        train = test = read(*_files(folder, names, what, endings))
        smallest = int(torch.bincount(train.labels, minlength=len(names)).argmin())
        if (train.labels == smallest).sum() < 3:
            raise StillhouseError(
                f"class {names[smallest]!r} in {folder} has too few {what} for three splits: three at least"
            )
        tested, held_out, kept = by_class(train.labels, [kind.test, kind.validation], seed=SEED)
    facts = Facts("classification", tuple(train.images.shape[1:]), classes=len(names), names=tuple(names))
    return Data(train_source(train, kept), source(train, held_out), source(test, tested), facts)


def _classes(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise StillhouseError(
            f"data.path: {folder} holds {len(names)} folders; a classifier needs one for each class, two at least"
        )
    return names


def _files(folder: Path, names: list[str], what: str, endings: set[str]) -> tuple[list[Path], list[int]]:
    """The files of each class, and the class of each."""
    unknown = sorted({entry.name for entry in folder.iterdir() if entry.is_dir()} - set(names))
    if unknown:
        raise StillhouseError(f"{folder} has classes that training has not: {', '.join(unknown[:4])}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(f for f in (folder / name).rglob("*") if f.suffix.lower() in endings)
        files += found
        labels += [label] * len(found)
    if not files:
        raise StillhouseError(f"{folder} holds no {what} (files ending in {', '.join(sorted(endings))})")
    return files, labels
