"""Encoded images, decoded once into a memory map that processes share.

The map lies in the cache folder under the hash of what it was made from. It is built in a folder of
another name, under a lock, and renamed when whole: a reader never sees half of one, a killed builder
leaves nothing that the next one does not replace, and processes that start together decode once.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import torch
from filelock import FileLock
from numpy.lib.format import open_memmap
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from stillhouse.errors import RunFailed, StillhouseError, nearest
from stillhouse.sources.arrays import ImageArray

ARROW = ".arrow"
"""How the files end that `save_to_disk` of Hugging Face Datasets writes; all others are Parquet."""
FORMAT = b"stillhouse images 1"
Pictures = Callable[[], Iterator[tuple[str, np.ndarray]]]
"""Gives the decoded images, [C, H, W] each, in order, with the words that name each in a message."""


@dataclass(frozen=True)
class Decoded:
    """`images` uint8 [N, C, H, W], memory-mapped; `labels` int64 [N]; a hash of the encoded content.

    Of sounds, `images` is int16 [N, samples].
    """

    images: Tensor
    labels: Tensor
    fingerprint: str


def decode(files: list[Path], *, image: str, label: str) -> Decoded:
    """The images and labels of these Parquet files, in order; decoded now if they never were.

    Grey images give one channel, all others three (RGB).
    Raises StillhouseError as `stillhouse.sources.images.image_parquet` says.
    """

    def pictures() -> Iterator[tuple[str, np.ndarray]]:
        return (_pixels(data, where) for file in files for where, data in _encoded(file, image))

    key = content(files, repr((image, label)))

    def labels() -> np.ndarray:
        found = np.concatenate([_labels(file, label) for file in files])
        if not len(found):
            raise StillhouseError(f"{files[0]} holds no rows")
        return found

    return kept(key, labels, pictures)


def decode_files(files: list[Path], labels: list[int], *, size: int | None, mode: Literal["L", "RGB"]) -> Decoded:
    """The images in these files, one each, in order; decoded now if they never were.

    Args:
        labels: the class of each.
        size: height and width that each is brought to (bilinear, its middle square); None leaves it as it is.
        mode: grey (one channel) or colour (three).

    Raises StillhouseError for a file that is no image, or images of several sizes where none is given.
    """

    def pictures() -> Iterator[tuple[str, np.ndarray]]:
        return (_pixels(file.read_bytes(), str(file), mode, size) for file in files)

    key = content(files, repr((labels, size, mode)))
    return kept(key, lambda: np.asarray(labels, np.int64), pictures)


def served(data: Decoded, rows: Tensor, **augmentation: Any) -> ImageArray:
    """A source over these rows; `augmentation` as `ImageArray` takes it."""
    fingerprint = hashlib.sha256(data.fingerprint.encode() + rows.numpy().tobytes()).hexdigest()
    return ImageArray(data.images, data.labels, rows=rows, fingerprint=fingerprint, **augmentation)


def cache_folder() -> Path:
    """STILLHOUSE_CACHE, or `stillhouse` in the user's cache folder."""
    if chosen := os.environ.get("STILLHOUSE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "stillhouse"


def content(files: list[Path], words: str) -> str:
    """A hash of the files' bytes and of how they are read."""
    whole = hashlib.sha256(FORMAT + words.encode())
    for file in files:
        with file.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def kept(key: str, labels: Callable[[], np.ndarray], pictures: Pictures) -> Decoded:
    """What lies in the cache under the key, written now where nothing does."""
    folder = cache_folder() / "images" / key
    if not folder.is_dir():
        _build(folder, labels, pictures)
    images = np.load(folder / "images.npy", mmap_mode="c")
    return Decoded(torch.from_numpy(images), torch.from_numpy(np.load(folder / "labels.npy")), key)


def _build(folder: Path, labels: Callable[[], np.ndarray], pictures: Pictures) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if folder.is_dir():
                return  # another process was first
            unfinished = folder.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            _write(unfinished, labels(), pictures())
            unfinished.rename(folder)
    except OSError as error:
        raise RunFailed(
            f"cannot keep the decoded images in {folder.parent} ({error}); "
            "make room there, or name another folder in the environment variable STILLHOUSE_CACHE"
        ) from error


def _write(folder: Path, labels: np.ndarray, decoded: Iterator[tuple[str, np.ndarray]]) -> None:
    first = next(decoded)
    images = open_memmap(folder / "images.npy", "w+", first[1].dtype, (len(labels), *first[1].shape))
    images[0] = first[1]
    for row, (where, pixels) in enumerate(decoded, start=1):
        if pixels.shape != first[1].shape:
            raise StillhouseError(
                f"{where}: the image is {pixels.shape} (channels, height, width) and the first one {first[1].shape}; "
                "all must have one size and as many channels"
            )
        images[row] = pixels
    images.flush()
    np.save(folder / "labels.npy", labels)
    for name in ("images.npy", "labels.npy"):
        with (folder / name).open("rb") as stream:
            os.fsync(stream.fileno())


def _labels(file: Path, label: str) -> np.ndarray:
    column = _column(file, label)
    if not arrow.types.is_integer(column.type):
        raise StillhouseError(f"{file}: column {label!r} holds {column.type}, not class indices (integers)")
    values = list(_values(file, label))
    if any(value is None or value < 0 for value in values):
        raise StillhouseError(f"{file}: column {label!r} has rows without a label")
    return np.asarray(values, np.int64)


def _encoded(file: Path, image: str) -> Iterator[tuple[str, bytes]]:
    """The bytes of each image of a file, and the words that name it in a message."""
    kind = _column(file, image).type
    inner = kind.field("bytes").type if arrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (arrow.types.is_binary(inner) or arrow.types.is_large_binary(inner)):
        raise StillhouseError(f"{file}: column {image!r} holds {kind}, not encoded images (bytes, or struct of bytes)")
    for row, value in enumerate(_values(file, image)):
        where = f"{file}, row {row}"
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise StillhouseError(f"{where}: no bytes in column {image!r}; images must lie in the file itself")
        yield where, data


def _values(file: Path, column: str) -> Iterator[Any]:
    try:
        if file.suffix == ARROW:
            with arrow.memory_map(str(file)) as stored, arrow.ipc.open_stream(stored) as batches:
                for batch in batches:
                    yield from batch.column(column).to_pylist()
            return
        with parquet.ParquetFile(file) as rows:
            for batch in rows.iter_batches(1024, columns=[column]):
                yield from batch.column(0).to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise StillhouseError(f"{file} cannot be read ({error})") from error


def _column(file: Path, name: str) -> arrow.Field:
    schema = schema_of(file)
    if name not in schema.names:
        raise StillhouseError(f"{file} has no column {name!r}; {nearest(name, schema.names)}")
    return schema.field(name)


def schema_of(file: Path) -> arrow.Schema:
    """The columns of a file. Raises StillhouseError where it is not what its name says."""
    try:
        if file.suffix != ARROW:
            return parquet.read_schema(file)
        with arrow.memory_map(str(file)) as stored, arrow.ipc.open_stream(stored) as batches:
            return batches.schema
    except (arrow.ArrowInvalid, OSError) as error:
        what = "an Arrow stream" if file.suffix == ARROW else "a Parquet file"
        raise StillhouseError(f"{file} is not {what} ({error})") from error


def _pixels(data: bytes, where: str, mode: str | None = None, size: int | None = None) -> tuple[str, np.ndarray]:
    """Encoded bytes -> uint8 [C, H, W]; without a mode, grey images stay grey and all others become RGB."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            plain = picture.convert(mode or ("L" if picture.mode == "L" else "RGB"))
            pixels = np.asarray(plain if size is None else ImageOps.fit(plain, (size, size), Image.Resampling.BILINEAR))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise StillhouseError(f"{where}: the image cannot be decoded ({error})") from error
    return where, pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
