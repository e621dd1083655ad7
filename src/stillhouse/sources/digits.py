"""scikit-learn's handwritten digits: real, small, and installed with the package."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from sklearn.datasets import load_digits

from stillhouse.engine.contracts import Data, Facts
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.kinds import Digits
from stillhouse.sources.splits import by_class

SEED = 0


def digits(kind: Digits) -> Data:
    """Alpaydin & Kaynak's test set (UCI, 1998): 1,797 images [1, 8, 8] of 16 grey levels and white.

    Split by class with a fixed seed, so that every run, whatever its seed, keeps the same test images.
    Training images are shifted by up to `kind.shift` pixels each way, with zeros moving in.
    """
    pixels, answers = load_digits(return_X_y=True)  # [1797, 64] in 0..16, [1797]
    images = torch.from_numpy(np.asarray(pixels, np.float32) / 16).view(-1, 1, 8, 8)
    labels = torch.from_numpy(np.asarray(answers, np.int64))
    test, validation, train = by_class(labels, [kind.test, kind.validation], seed=SEED)
    if kind.limit is not None and kind.limit < len(train):
        train = train[by_class(labels[train], [kind.limit / len(train)], seed=SEED)[0]]

    def split(rows: torch.Tensor, pad: int = 0) -> ImageArray:
        chosen, classes = images[rows], labels[rows]
        content = hashlib.sha256(chosen.numpy().tobytes() + classes.numpy().tobytes())
        return ImageArray(chosen, classes, fingerprint=content.hexdigest(), pad=pad)

    facts = Facts(
        task="classification",
        shape=(1, 8, 8),
        classes=10,
        names=tuple("0123456789"),
        licence="CC BY 4.0 (UCI, Optical Recognition of Handwritten Digits)",
    )
    return Data(train=split(train, kind.shift), validation=split(validation), test=split(test), facts=facts)
