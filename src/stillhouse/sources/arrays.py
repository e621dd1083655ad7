"""Labelled images held in memory (or in a memory map), cut out and flipped by the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Batch


class ImageArray:
    """A `Source` over an array of images.

    Args:
        images: [N, C, H, W], float in [0, 1], or uint8 (served as value / 255). May be a memory map.
        labels: [N] class indices.
        rows: [n] the rows of `images` that this source serves, in order; None: all.
        fingerprint: a hash of the served images and labels.
        pad: with a generator, a window of the same size is cut at random from the image with
            this many zero pixels around it (Krizhevsky 2009; He et al. 2015, section 4.2 use 4).
        flip: with a generator, every second image on average is mirrored left to right.
        plain_with: the changes to a recipe that turn `pad` and `flip` off, for messages.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        fingerprint: str,
        rows: Tensor | None = None,
        pad: int = 0,
        flip: bool = False,
        plain_with: str = "",
    ) -> None:
        assert len(images) == len(labels), "one label an image"
        self.images, self.rows = images, rows
        self.labels = labels if rows is None else labels[rows]
        self.fingerprint = fingerprint
        self.pad, self.flip, self.plain_with = pad, flip, plain_with

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def augments(self) -> bool:
        """Whether `fetch` changes the images when it is given a generator."""
        return self.pad > 0 or self.flip

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        """`index` and `labels` [B], `image` float [B, C, H, W] in [0, 1]; augmented only with a generator."""
        rows = indices if self.rows is None else self.rows.index_select(0, indices)
        images = self.images.index_select(0, rows)
        if rng is not None and self.pad:
            images = _cut(images, self.pad, rng)
        if rng is not None and self.flip:
            mirrored = (torch.rand(len(images), generator=rng) < 0.5).nonzero().squeeze(1)
            images.index_copy_(0, mirrored, images.index_select(0, mirrored).flip(-1))
        if images.dtype == torch.uint8:
            images = images.float().div_(255)
        return {"index": indices, "image": images, "labels": self.labels.index_select(0, indices)}


def _cut(images: Tensor, pad: int, rng: torch.Generator) -> Tensor:
    """A window of the original size from each zero-padded image, placed uniformly: [B, C, H, W] -> the same."""
    count, channels, height, width = images.shape
    padded = functional.pad(images, (pad, pad, pad, pad))
    down, right = torch.randint(2 * pad + 1, (2, count), generator=rng)
    image, channel, line, _ = padded.stride()
    first = torch.arange(count).mul_(image).add_(right).add_(down, alpha=line)  # of each window, counted in pixels
    last = padded.numel() - (channels - 1) * channel - (height - 1) * line - width
    windows = padded.as_strided((last + 1, channels, height, width), (1, channel, line, 1))  # one at every pixel
    return windows.index_select(0, first)
