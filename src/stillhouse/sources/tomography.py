"""Images as a tomograph with few views reconstructs them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Data, Source
from stillhouse.sources.altered import classified
from stillhouse.sources.altered_kinds import SparseViews
from stillhouse.sources.shown import Shown, turned


def sparse_views(kind: SparseViews) -> Data:
    """`image` from `kind.views` angles, `second_image` from `kind.more`, and the image itself as `labels`."""
    data = classified(kind)

    def scanned(batch: Batch) -> Batch:
        few, more = (reconstructed(batch["image"], views) for views in (kind.views, kind.more))
        first = few if kind.first == "few" else more
        return batch | {"image": first, "second_image": more, "labels": batch["image"]}

    def of(source: Source, *, train: bool) -> Shown:
        words = f"{source.fingerprint} {kind.model_dump(exclude={'of'})}"
        return Shown(source, scanned, fingerprint=hashlib.sha256(words.encode()).hexdigest() if train else None)

    facts = replace(data.facts, task="restoration", classes=1, names=())
    return Data(of(data.train, train=True), of(data.validation, train=False), of(data.test, train=False), facts)


def reconstructed(images: Tensor, views: int) -> Tensor:
    """Filtered back-projection (Kak & Slaney 1988, section 3.3) from parallel rays at `views` even angles.

    [B, C, H, H] -> the same: each projection, the sums of the turned image's columns, goes through the ramp filter
    and is smeared back along its rays; pi / (2 views) times their sum. Images are padded by half their height.
    """
    side = images.shape[-1]
    pad = side // 2
    wide = functional.pad(images, (pad, pad, pad, pad))
    length = wide.shape[-1]
    ramp = torch.fft.rfftfreq(2 * length).abs() * 2
    total = torch.zeros_like(wide)
    for number in range(views):
        angle = 180.0 * number / views
        projection = turned(wide, angle).sum(2)  # [B, C, W]
        filtered = torch.fft.irfft(torch.fft.rfft(projection, 2 * length) * ramp, 2 * length)[..., :length]
        total = total + turned(filtered.unsqueeze(2).expand_as(wide).contiguous(), -angle)
    return (total * math.pi / (2 * views))[..., pad : pad + side, pad : pad + side]
