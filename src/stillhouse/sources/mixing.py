"""Training images mixed with one another, or shown twice. Validation and test stay as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Data, Source
from stillhouse.errors import StillhouseError
from stillhouse.sources.altered import classified
from stillhouse.sources.altered_kinds import AlteredKind, CutMix, MixUp, TwoViews

Change = Callable[[Batch, Tensor, torch.Generator], Batch]
"""What becomes of a training batch, drawn at these rows, with a generator."""


class Changed:
    """A `Source` that changes another's batches when it is given a generator, and has the same fields without one."""

    augments = True
    plain_with = "data without this kind of mixing (data=<what it is made of>)"

    def __init__(self, source: Source, change: Change, plain: Callable[[Batch], Batch], *, fingerprint: str) -> None:
        self.source, self.change, self.plain, self.fingerprint = source, change, plain, fingerprint

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        """The other source's batch, changed; as `plain` gives it without a generator."""
        batch = self.source.fetch(indices, rng)
        return self.plain(batch) if rng is None else self.change(batch, indices, rng)


def mixup(kind: MixUp) -> Data:
    """x = l x_i + (1 - l) x_j and y alike, l from Beta(alpha, alpha) for each example, j drawn from the batch.

    Zhang et al. 2018, eq. 1, with one share an example where the authors draw one a batch.
    """

    def mixed(batch: Batch, other: Batch, rng: torch.Generator) -> Batch:
        share = _beta(kind.alpha, len(batch["labels"]), rng)  # [B]
        image = torch.lerp(other["image"], batch["image"], share.view(-1, 1, 1, 1))
        return {"image": image, "labels": torch.lerp(other["labels"], batch["labels"], share.view(-1, 1))}

    return _mixing(kind, mixed)


def cutmix(kind: CutMix) -> Data:
    """A rectangle of another image of the batch, of area 1 - l, pasted in; labels mixed by the area that is left.

    Yun et al. 2019, eqs. 1 and 2: l from Beta(alpha, alpha), the centre drawn evenly, cut off at the border.
    One rectangle an example.
    """

    def mixed(batch: Batch, other: Batch, rng: torch.Generator) -> Batch:
        pasted = rectangles(batch["image"], _beta(kind.alpha, len(batch["image"]), rng), rng)  # [B, 1, H, W]
        share = 1 - pasted.float().mean((1, 2, 3))
        image = torch.where(pasted, other["image"], batch["image"])
        return {"image": image, "labels": torch.lerp(other["labels"], batch["labels"], share.view(-1, 1))}

    return _mixing(kind, mixed)


def two_views(kind: TwoViews) -> Data:
    """Batches with a second image of each example, `second_image`, whatever its labels are."""
    data: Data = kind.of.build()
    if len(data.facts.shape) != 3:
        raise StillhouseError(f"data of kind 'two-views' is made of images, and its origin is of {data.facts.shape}")

    def doubled(batch: Batch, indices: Tensor, rng: torch.Generator) -> Batch:
        second = data.train.fetch(indices, rng if kind.second == "augmented" else None)
        return batch | {"second_image": second["image"]}

    def plain(batch: Batch) -> Batch:
        return batch | {"second_image": batch["image"]}

    def shown(source: Source, fingerprint: str) -> Changed:
        return Changed(source, doubled, plain, fingerprint=fingerprint)

    return Data(
        train=shown(data.train, _fingerprint(data.train, kind)),
        validation=shown(data.validation, data.validation.fingerprint),  # the same image twice: the same content
        test=shown(data.test, data.test.fingerprint),
        facts=data.facts,
    )


def _mixing(kind: AlteredKind, mixed: Callable[[Batch, Batch, torch.Generator], Batch]) -> Data:
    data = classified(kind)

    def one_hot(batch: Batch) -> Batch:
        return batch | {"labels": functional.one_hot(batch["labels"], data.facts.classes).float()}

    def change(batch: Batch, indices: Tensor, rng: torch.Generator) -> Batch:
        soft = one_hot(batch)
        order = torch.randperm(len(indices), generator=rng)
        other = {"image": soft["image"][order], "labels": soft["labels"][order]}
        return soft | mixed(soft, other, rng)

    return replace(data, train=Changed(data.train, change, one_hot, fingerprint=_fingerprint(data.train, kind)))


def _fingerprint(source: Source, kind: AlteredKind) -> str:
    return hashlib.sha256(f"{source.fingerprint} {kind.model_dump(exclude={'of'})}".encode()).hexdigest()


def _beta(alpha: float, count: int, rng: torch.Generator) -> Tensor:
    """Draws from Beta(alpha, alpha), [count], from a given generator."""
    seed = int(torch.randint(2**31, (), generator=rng))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count)).float()


def rectangles(images: Tensor, share: Tensor, rng: torch.Generator) -> Tensor:
    """Where a rectangle of area 1 - share lies in each image: bool [B, 1, H, W]."""
    count, _, height, width = images.shape
    inside = torch.ones(count, 1, 1, 1, dtype=torch.bool, device=images.device)
    for size, shape in ((height, (count, 1, -1, 1)), (width, (count, 1, 1, -1))):
        half = (size * (1 - share).sqrt() / 2).view(-1, 1)
        centre = torch.rand(count, 1, generator=rng, device=rng.device) * size
        place = torch.arange(size, device=images.device) + 0.5  # pixel centres
        inside = inside & ((place - centre).abs() < half).view(shape)
    return inside
