"""Images seen at a lower resolution, to be brought back to their own."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Data, Source
from stillhouse.errors import StillhouseError
from stillhouse.sources.altered import classified
from stillhouse.sources.altered_kinds import LowResolution
from stillhouse.sources.shown import Shown

PATTERNS = 512
"""Different noises; every image has one of them."""


def low_resolution(kind: LowResolution) -> Data:
    """`image`, the mean over `factor` x `factor` pixels with noise; `labels`, the image itself; `class`, its label.

    An image has the same noise at every visit. Raises StillhouseError where images do not split into such squares.
    """
    data = classified(kind)
    channels, height, width = _sides(data.facts.shape)
    if height % kind.factor or width % kind.factor:
        raise StillhouseError(
            f"data.factor: images of {height} x {width} pixels do not split into squares of {kind.factor}; "
            "name a divisor of both"
        )
    shape = (channels, height // kind.factor, width // kind.factor)

    def of(source: Source, number: int) -> Shown:
        rng = torch.Generator().manual_seed(kind.seed + number)
        noise = kind.noise * torch.randn(PATTERNS, *shape, generator=rng)
        own = torch.randint(PATTERNS, (len(source),), generator=rng)

        def shrunk(batch: Batch) -> Batch:
            small = functional.avg_pool2d(batch["image"], kind.factor) + noise[own[batch["index"]]]
            return batch | {"image": small.clamp(0, 1), "labels": batch["image"], "class": batch["labels"]}

        words = f"{source.fingerprint} {kind.model_dump(exclude={'of'})}"
        return Shown(source, shrunk, fingerprint=hashlib.sha256(words.encode()).hexdigest() if number == 0 else None)

    facts = replace(data.facts, task="restoration", shape=shape)
    return Data(of(data.train, 0), of(data.validation, 1), of(data.test, 2), facts)


def clean(data: Data) -> Data:
    """The images that low resolutions are of, as the classification they came from.

    Raises StillhouseError for data whose batches do not hold both.
    """
    example = data.train.fetch(torch.arange(1), None)
    if "class" not in example:
        raise StillhouseError(
            "this measurement looks at restored images with a classifier, and the data tells no classes of the true "
            "ones: it is for data of kind 'low-resolution'"
        )
    facts = replace(data.facts, task="classification", shape=tuple(example["labels"].shape[1:]))
    return Data(true_images(data.train), true_images(data.validation), true_images(data.test), facts)


def true_images(source: Source) -> Shown:
    """A split of low resolutions as the images that they are of, with their classes as `labels`."""
    return Shown(source, lambda batch: {"index": batch["index"], "image": batch["labels"], "labels": batch["class"]})


def _sides(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise StillhouseError(f"only images have a lower resolution, and inputs are {list(shape)}")
    return shape[0], shape[1], shape[2]
