"""scikit-learn's handwritten digits: real, small, and installed with the package."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from stillhouse.engine.contracts import Data, Facts
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.kinds import Digits
from stillhouse.sources.splits import by_class, some_of_each

SEED = 0


def digits(kind: Digits) -> Data:
    """Alpaydin & Kaynak's test set (UCI, 1998): 1,797 images [1, 8, 8] of 16 grey levels and white.

    Split by class with a fixed seed, so that every run, whatever its seed, keeps the same test images.
    Training images are shifted by up to `kind.shift` pixels each way, with zeros moving in.
    """
    table = np.loadtxt(_file(), delimiter=",", dtype=np.float32)  # [1797, 65]: pixels in 0..16, and the class
    images = torch.from_numpy(table[:, :64] / 16).view(-1, 1, 8, 8)
    labels = torch.from_numpy(table[:, 64].astype(np.int64))
    test, validation, train = by_class(labels, [kind.test, kind.validation], seed=SEED)
    if kind.limit is not None and kind.limit < len(train):
        train = train[some_of_each(labels[train], kind.limit, seed=SEED)]

    def split(rows: torch.Tensor, pad: int = 0) -> ImageArray:
        chosen, classes = images[rows], labels[rows]
        content = hashlib.sha256(chosen.numpy().tobytes() + classes.numpy().tobytes())
        return ImageArray(chosen, classes, fingerprint=content.hexdigest(), pad=pad, plain_with="data.shift=0")

    facts = Facts(
        task="classification",
        shape=(1, 8, 8),
        classes=10,
        names=tuple("0123456789"),
        licence="CC BY 4.0 (UCI, Optical Recognition of Handwritten Digits)",
    )
    return Data(train=split(train, kind.shift), validation=split(validation), test=split(test), facts=facts)


def _file() -> Path:
    """The file that `sklearn.datasets.load_digits` reads; importing scikit-learn to read it takes two seconds."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
