"""Labelled images in folders: a folder for each class."""

from __future__ import annotations

from pathlib import Path

import torch

from stillhouse.engine.contracts import Data, Facts
from stillhouse.engine.paths import resolve
from stillhouse.errors import StillhouseError
from stillhouse.sources.decoded import Decoded, decode_files, served
from stillhouse.sources.kinds import ImageFolder
from stillhouse.sources.splits import by_class

SEED = 0
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


def image_folder(kind: ImageFolder) -> Data:
    """The images under `kind.path`: `train/<class>/*` and `test/<class>/*`, or `<class>/*`, then split here.

    Classes are the folders' names in order. Raises StillhouseError for a folder that is not there or holds no
    images, for a test class that is not in training, a class of one or two images where the split is made here,
    and as `decode_files` does.
    """
    folder = resolve(kind.path)
    if not folder.is_dir():
        raise StillhouseError(
            f"data.path: there is no folder {folder}. Relative paths start at --root (now {resolve('.')})"
        )
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        names = _classes(folder / "train")
        train, test = _decoded(folder / "train", names, kind), _decoded(folder / "test", names, kind)
        held_out, kept = by_class(train.labels, [kind.validation], seed=SEED)
        tested = torch.arange(len(test.labels))
    else:
        names = _classes(folder)
        train = test = _decoded(folder, names, kind)
        smallest = int(torch.bincount(train.labels, minlength=len(names)).argmin())
        if (train.labels == smallest).sum() < 3:
            raise StillhouseError(
                f"class {names[smallest]!r} in {folder} has too few images for three splits: three at least"
            )
        tested, held_out, kept = by_class(train.labels, [kind.test, kind.validation], seed=SEED)
    facts = Facts("classification", tuple(train.images.shape[1:]), classes=len(names), names=tuple(names))
    return Data(
        train=served(train, kept, pad=kind.crop, flip=kind.flip, plain_with="data.crop=0 data.flip=false"),
        validation=served(train, held_out),
        test=served(test, tested),
        facts=facts,
    )


def _classes(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise StillhouseError(
            f"data.path: {folder} holds {len(names)} folders; a classifier needs one for each class, two at least"
        )
    return names


def _decoded(folder: Path, names: list[str], kind: ImageFolder) -> Decoded:
    unknown = sorted({entry.name for entry in folder.iterdir() if entry.is_dir()} - set(names))
    if unknown:
        raise StillhouseError(f"{folder} has classes that training has not: {', '.join(unknown[:4])}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(f for f in (folder / name).rglob("*") if f.suffix.lower() in ENDINGS)
        files += found
        labels += [label] * len(found)
    if not files:
        raise StillhouseError(f"{folder} holds no images (files ending in {', '.join(sorted(ENDINGS))})")
    return decode_files(files, labels, size=kind.size, mode="L" if kind.grey else "RGB")
