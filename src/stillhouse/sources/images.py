"""Labelled images from Parquet files of the Hugging Face layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from stillhouse.engine.contracts import Data, Facts
from stillhouse.engine.paths import resolve
from stillhouse.errors import StillhouseError
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.decoded import ARROW, Decoded, decode, schema_of, served
from stillhouse.sources.hub import HUB
from stillhouse.sources.kinds import ImageParquet
from stillhouse.sources.splits import by_class

SEED = 0


def image_parquet(kind: ImageParquet) -> Data:
    """The data set in `kind.path`: its test split, and its training split with the validation images carved out.

    Raises StillhouseError for a folder without the files, a column that is missing or of another type, an
    image that cannot be decoded or has another size than the first, and a hub that cannot be reached.
    """
    folder = _download(kind.path) if kind.path.startswith(HUB) else resolve(kind.path)
    train_files, test_files = _files(folder, "train"), _files(folder, "test")
    train = decode(train_files, image=kind.image, label=kind.label)
    test = decode(test_files, image=kind.image, label=kind.label)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise StillhouseError(f"{folder}: training images are {_size(train)} and test images {_size(test)}")
    names = _class_names(train_files[0], kind.label)
    classes = max(len(names), int(train.labels.max()) + 1, int(test.labels.max()) + 1)
    held_out, kept = by_class(train.labels, [kind.validation], seed=SEED)
    return Data(
        train=served(train, kept, pad=kind.crop, flip=kind.flip, plain_with="data.crop=0 data.flip=false"),
        validation=served(train, held_out),
        test=ImageArray(test.images, test.labels, fingerprint=test.fingerprint),
        facts=Facts(task="classification", shape=tuple(train.images.shape[1:]), classes=classes, names=names),
    )


def _files(folder: Path, split: str) -> list[Path]:
    if not folder.is_dir():
        raise StillhouseError(
            f"data.path: there is no folder {folder}. Relative paths start at --root (now {resolve('.')}); "
            f"a data set of the Hugging Face hub is named '{HUB}owner/name'"
        )
    files = sorted(folder.rglob(f"{split}*.parquet")) or sorted((folder / split).glob(f"*{ARROW}"))
    if not files:
        raise StillhouseError(f"data.path: no file {split}*.parquet in {folder}, and no {split}/*{ARROW}")
    return files


def _download(path: str) -> Path:
    """The Parquet files of a hub data set, in the hub's own cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name = path.removeprefix(HUB)
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=["*.parquet"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise StillhouseError(
            f"data.path: cannot get the data set {name!r} from the hub ({type(error).__name__}: {error}). "
            "Check the name and the connection, or give a folder with its Parquet files"
        ) from error


def _class_names(file: Path, label: str) -> tuple[str, ...]:
    """The names in the Hugging Face part of the file's metadata, where there are any."""
    metadata = schema_of(file).metadata or {}
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def _size(data: Decoded) -> str:
    return " x ".join(str(n) for n in torch.as_tensor(data.images.shape[1:]).tolist())
