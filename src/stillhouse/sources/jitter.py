"""Training images that are drawn anew each time: moved, turned, stretched, inked otherwise; or set in lines."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Data
from stillhouse.sources.altered import classified
from stillhouse.sources.altered_kinds import AlteredKind, Jitter, Jittered, Lines
from stillhouse.sources.mixing import Change, Changed
from stillhouse.sources.spatial import sampled


def jittered(kind: Jittered) -> Data:
    """The data with training images that are changed each time: see `Jittered`."""

    def change(batch: Batch, indices: Tensor, rng: torch.Generator) -> Batch:
        image = sampled(batch["image"], maps(kind.by, batch["image"].shape, rng))
        return batch | {"image": inked(image, kind.by, rng)}

    return _changed(kind, classified(kind), change)


def lines(kind: Lines) -> Data:
    """The data with training images in lines: see `Lines`. `image` [B, C, H, length W]."""
    data = classified(kind)

    def change(batch: Batch, indices: Tensor, rng: torch.Generator) -> Batch:
        rows = torch.randint(len(data.train), (len(indices), kind.length), generator=rng)
        others = data.train.fetch(rows.flatten(), rng)["image"].unflatten(0, rows.shape)  # [B, T, C, H, W]
        place = torch.randint(kind.length, (len(indices),), generator=rng)
        others[torch.arange(len(indices)), place] = batch["image"]
        return batch | {"image": others.permute(0, 2, 3, 1, 4).flatten(3)}

    return _changed(kind, data, change)


def maps(jitter: Jitter, shape: torch.Size, rng: torch.Generator) -> Tensor:
    """Affine maps [B, 2, 3] for `spatial.sampled`, one for each image of a shape [B, C, H, W]; pixels stay square."""
    count, _, height, width = shape
    aspect = width / height

    def between(most: float) -> Tensor:
        return most * (2 * torch.rand(count, generator=rng, device=rng.device) - 1)

    wide, high, slant = between(jitter.zoom).exp(), between(jitter.zoom).exp(), between(jitter.slant)
    right, down, angle = between(jitter.move), between(jitter.move), between(math.radians(jitter.degrees))
    cos, sin = angle.cos(), angle.sin()
    rows = [
        wide * cos,
        wide * (slant * cos - sin) / aspect,
        right,
        high * sin * aspect,
        high * (slant * sin + cos),
        down,
    ]
    return torch.stack(rows, 1).view(-1, 2, 3)


def inked(images: Tensor, jitter: Jitter, rng: torch.Generator) -> Tensor:
    """Images [B, C, H, W] in [0, 1], each blurred, paled and noised as much as drawn for it."""

    def most(limit: float) -> Tensor:
        return limit * torch.rand(len(images), 1, 1, 1, generator=rng, device=rng.device)

    soft = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1)), 3, stride=1)
    images = torch.lerp(images, soft, most(jitter.blur)) * (1 - most(jitter.fade))
    noise = torch.randn(images.shape, generator=rng, device=rng.device)
    return (images + most(jitter.noise) * noise).clamp(0, 1)


def _changed(kind: AlteredKind, data: Data, change: Change) -> Data:
    words = f"{data.train.fingerprint} {kind.model_dump(exclude={'of'})}"
    told = hashlib.sha256(words.encode()).hexdigest()
    return replace(data, train=Changed(data.train, change, lambda batch: batch, fingerprint=told))
