"""Sounds in files, decoded once into a memory map, as images are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import resample_poly
from torch import Tensor

from stillhouse.engine.contracts import Batch
from stillhouse.errors import StillhouseError
from stillhouse.sources.decoded import Decoded, content, kept

SOUNDS = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".au"}
LOUDEST = 32767


class Sounds:
    """A `Source` over decoded sounds: `features` float [B, samples] in [-1, 1], `labels` and `index` [B]."""

    def __init__(self, data: Decoded, rows: Tensor) -> None:
        self.sounds, self.rows, self.labels = data.images, rows, data.labels[rows]
        self.fingerprint = hashlib.sha256(data.fingerprint.encode() + rows.numpy().tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        heard = self.sounds.index_select(0, self.rows[indices]).float() / LOUDEST
        return {"index": indices, "features": heard, "labels": self.labels[indices]}


def decode_sounds(files: list[Path], labels: list[int], *, rate: int, samples: int) -> Decoded:
    """The sounds in these files, int16 [N, samples], in order; decoded now if they never were.

    Channels are averaged, other rates brought to `rate` (scipy's polyphase filter), the beginning kept, and shorter
    sounds filled up with silence. Raises StillhouseError for a file that is no sound, or holds none.
    """

    def sounds() -> Iterator[tuple[str, np.ndarray]]:
        return ((str(file), _samples(file, rate, samples)) for file in files)

    key = content(files, repr(("sounds 1", labels, rate, samples)))
    return kept(key, lambda: np.asarray(labels, np.int64), sounds)


def _samples(file: Path, rate: int, samples: int) -> np.ndarray:
    try:
        heard, own = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise StillhouseError(f"{file}: the sound cannot be decoded ({error})") from error
    if not len(heard):
        raise StillhouseError(f"{file}: there is no sound in it")
    mono = heard.mean(1)
    if own != rate:
        shared = gcd(own, rate)
        mono = resample_poly(mono, rate // shared, own // shared)
    whole = np.zeros(samples, np.float32)
    whole[: len(mono)] = mono[:samples]
    return np.round(whole.clip(-1, 1) * LOUDEST).astype(np.int16)
