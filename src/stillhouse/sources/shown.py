"""Data whose images are shown otherwise: turned, with their pixels in another order, cut into two modalities."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Data, Source
from stillhouse.errors import StillhouseError
from stillhouse.sources.altered import classified
from stillhouse.sources.altered_kinds import AlteredKind, Domains, Halves, NoisyViews, Permuted, Rotated
from stillhouse.sources.derived import Derived

Show = Callable[[Batch], Batch]
SEED = 0


class Shown(Derived):
    """A `Source` whose batches are another's through a fixed function, augmented where that one's are.

    `fingerprint` is the other's where it is not given: of the same examples, told apart by nothing but how they
    are shown.
    """

    def __init__(self, source: Source, show: Show, *, fingerprint: str | None = None) -> None:
        super().__init__(source)
        self.show = show
        self.fingerprint = fingerprint or self.fingerprint

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        """The other source's batch, as this one shows it."""
        return self.show(self.source.fetch(indices, rng))


def rotated(kind: Rotated) -> Data:
    """The data with its training images turned."""
    return _training(kind, lambda batch: batch | {"image": turned(batch["image"], kind.degrees)})


def permuted(kind: Permuted) -> Data:
    """The data with the pixels of its training images in another order, the same for all."""
    data = classified(kind)
    order = torch.randperm(_pixels(data), generator=torch.Generator().manual_seed(kind.seed))

    def shuffled(batch: Batch) -> Batch:
        return batch | {"image": batch["image"].flatten(2)[..., order].view_as(batch["image"])}

    return _training(kind, shuffled)


def halves(kind: Halves) -> Data:
    """The data as two modalities and their whole: see `Halves`."""

    def cut(batch: Batch) -> Batch:
        whole = batch["image"]
        middle = whole.shape[-1] // 2
        left, right = whole.clone(), whole.clone()
        left[..., middle:], right[..., :middle] = 0, 0
        named = {"left": left, "right": right, "both": whole}
        second = right if kind.first == "left" else left
        return batch | {"image": named[kind.first], "second_image": second, "whole_image": whole}

    data = classified(kind)
    train = _shown(data.train, cut, kind, other=True)
    return replace(data, train=train, validation=_shown(data.validation, cut, kind), test=_shown(data.test, cut, kind))


def noisy_views(kind: NoisyViews) -> Data:
    """The data as several noisy views: see `NoisyViews`."""
    data = classified(kind)

    def viewed(source: Source, seed: int) -> Show:
        rng = torch.Generator().manual_seed(seed)
        noise = kind.noise * torch.randn(len(source), kind.views, *data.facts.shape, generator=rng)

        def views(batch: Batch) -> Batch:
            own = batch["image"] + noise[batch["index"]].movedim(1, 0)  # [V, B, C, H, W]
            return batch | {"image": own[0], "second_image": own[1], "whole_image": own.mean(0)}

        return views

    train, validation, test = (
        viewed(split, SEED + n) for n, split in enumerate((data.train, data.validation, data.test))
    )
    return replace(
        data,
        train=_shown(data.train, train, kind, other=True),
        validation=_shown(data.validation, validation, kind),
        test=_shown(data.test, test, kind),
    )


def domains(kind: Domains) -> Data:
    """The data as several domains, as many examples of one as of another, drawn with a fixed seed: see `Domains`.

    Not by turns: the examples' classes may come by turns as well.
    """
    angles = torch.tensor(kind.degrees)
    data = classified(kind)
    belongs = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(SEED)) % len(angles)

    def own(batch: Batch) -> Batch:
        domain = belongs[batch["index"]]
        return batch | {"image": turned(batch["image"], angles[domain]), "domain": domain}

    def held_out(batch: Batch) -> Batch:
        return batch | {"image": turned(batch["image"], kind.held_out), "domain": torch.full_like(batch["labels"], -1)}

    train = _shown(data.train, own, kind, other=True)
    return replace(
        data, train=train, validation=_shown(data.validation, held_out, kind), test=_shown(data.test, held_out, kind)
    )


def turned(images: Tensor, degrees: float | Tensor) -> Tensor:
    """Images [B, C, H, W] turned counter-clockwise about their middle by one angle, or one each [B]; zeros move in.

    Bilinear interpolation.
    """
    angle = torch.as_tensor(degrees, dtype=images.dtype).expand(len(images)).deg2rad()
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = torch.stack([torch.stack([cos, -sin, zero], -1), torch.stack([sin, cos, zero], -1)], 1)  # [B, 2, 3]
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _training(kind: AlteredKind, show: Show) -> Data:
    data = classified(kind)
    return replace(data, train=_shown(data.train, show, kind, other=True))


def _shown(source: Source, show: Show, kind: AlteredKind, *, other: bool = False) -> Shown:
    words = f"{source.fingerprint} {kind.model_dump(exclude={'of'})}"
    return Shown(source, show, fingerprint=hashlib.sha256(words.encode()).hexdigest() if other else None)


def _pixels(data: Data) -> int:
    if len(data.facts.shape) != 3:
        raise StillhouseError(f"only images have pixels to put in another order, and inputs are {data.facts.shape}")
    return data.facts.shape[1] * data.facts.shape[2]
