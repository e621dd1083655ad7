"""A flat scene of Gaussians seen from several cameras, with features of its pixels at several granularities."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Data, Facts
from stillhouse.sources.made_kinds import Scene

SEED = 0
LEVELS = 3
"""Granularities of the features: small, middle, large."""


class Pixels:
    """A `Source` of pixels of a scene's views.

    `weights` [B, N]: how much each Gaussian adds to the pixel, at most one together; `targets` [B, 3, D]: the teacher's
    feature of the pixel at each granularity; `labels` [B]: the object that covers most of the pixel.
    """

    def __init__(self, weights: Tensor, targets: Tensor, labels: Tensor) -> None:
        self.fields = {"weights": weights, "targets": targets, "labels": labels}
        self.fingerprint = hashlib.sha256(b"".join(f.numpy().tobytes() for f in self.fields.values())).hexdigest()

    def __len__(self) -> int:
        return len(self.fields["labels"])

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        """The pixels at these positions; nothing is augmented."""
        del rng
        return {"index": indices, **{name: value.index_select(0, indices) for name, value in self.fields.items()}}


def scene(kind: Scene) -> Data:
    """`kind.objects` blobs of Gaussians on the unit square; each view cuts a window out of it and draws it in pixels.

    The true feature of an object is a random unit vector. At the one granularity that fits an object, drawn for each
    and told to nobody, every view gives its pixels that feature; at the two others each view mixes in another random
    vector for the object, of length `conflict`. Validation and test are of views that are not trained on, and their
    targets are the true features at all granularities.
    """
    rng = np.random.default_rng(SEED)
    middles = rng.uniform(0.1, 0.9, (kind.objects, 2))
    owner = np.repeat(np.arange(kind.objects), kind.gaussians)
    places = middles[owner] + rng.normal(0, kind.spread, (len(owner), 2))
    features = functional.normalize(torch.from_numpy(rng.normal(size=(kind.objects, kind.width))).float(), dim=1)
    fits = torch.from_numpy(rng.integers(LEVELS, size=kind.objects))
    views = [
        _view(kind, rng, places, owner, features, fits, true=number >= kind.views) for number in range(kind.views + 4)
    ]
    train = [torch.cat(parts) for parts in zip(*views[: kind.views], strict=True)]
    held = [
        [torch.cat(parts) for parts in zip(*views[start : start + 2], strict=True)]
        for start in (kind.views, kind.views + 2)
    ]
    facts = Facts("scene", (len(owner), kind.width), kind.objects, licence="made up")
    return Data(Pixels(*train), Pixels(*held[0]), Pixels(*held[1]), facts)


def _view(
    kind: Scene,
    rng: np.random.Generator,
    places: np.ndarray,
    owner: np.ndarray,
    features: Tensor,
    fits: Tensor,
    *,
    true: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [P, N], targets [P, 3, D] and labels [P] of one view's pixels that show anything."""
    size = rng.uniform(0.5, 1.0)
    corner = rng.uniform(0, 1 - size, 2)
    steps = (np.arange(kind.pixels) + 0.5) / kind.pixels
    pixels = corner + size * np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    distance = ((pixels[:, None] - places[None]) ** 2).sum(-1) / kind.radius**2
    weights = torch.from_numpy(np.exp(-distance / 2)).float()  # [P, N]
    covered = weights.sum(1)
    weights = weights / covered.clamp(min=1).unsqueeze(1)
    shares = torch.zeros(len(pixels), kind.objects).index_add_(1, torch.from_numpy(owner), weights)
    labels = shares.argmax(1)
    targets = features[labels].unsqueeze(1).expand(-1, LEVELS, -1).clone()  # [P, 3, D]
    if not true:
        other = functional.normalize(
            torch.from_numpy(rng.normal(size=(LEVELS, kind.objects, kind.width))).float(), dim=2
        )
        for level in range(LEVELS):
            wrong = fits[labels] != level
            mixed = features[labels] + kind.conflict * other[level][labels]
            targets[wrong, level] = functional.normalize(mixed, dim=1)[wrong]
    seen = shares.max(1).values > 0.3
    return weights[seen], targets[seen], labels[seen]
