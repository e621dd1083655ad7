"""Images blurred and noised, each with a mark for its quality."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Data, Source
from stillhouse.sources.altered import classified
from stillhouse.sources.altered_kinds import Distorted
from stillhouse.sources.derived import Derived

PATTERNS = 512
"""Different noises; every image has one of them."""


class Marked(Derived):
    """A `Source` of another's images, each distorted in a way of its own, with `labels` [B, 1], its mark.

    The mark is one minus the mean of how much is blurred and how much is noised, both in [0, 1], with the scatter of
    `opinions` people whose own marks deviate by 0.2; 0 opinions: the mark without scatter.
    """

    def __init__(self, source: Source, shape: tuple[int, ...], seed: int, opinions: int) -> None:
        super().__init__(source, f"distorted {seed} {opinions}")
        rng = torch.Generator().manual_seed(seed)
        self.blur, self.noise = torch.rand(2, len(source), generator=rng)
        self.pattern = torch.randint(PATTERNS, (len(source),), generator=rng)
        self.patterns = torch.randn(PATTERNS, *shape, generator=rng)
        scatter = 0.2 * torch.randn(len(source), generator=rng)
        self.marks = 1 - (self.blur + self.noise) / 2 + (scatter / opinions**0.5 if opinions else 0)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        """Each image's distortion is the same at every visit."""
        batch = self.source.fetch(indices, rng)
        image = batch["image"]
        blurred = torch.lerp(image, smoothed(image), self.blur[indices].view(-1, 1, 1, 1))
        noise = 0.5 * self.noise[indices].view(-1, 1, 1, 1) * self.patterns[self.pattern[indices]]
        seen = (blurred + noise).clamp(0, 1)
        return batch | {"image": seen, "labels": self.marks[indices].unsqueeze(1)}


def distorted(kind: Distorted) -> Data:
    """The data as images with marks: the training marks scatter, those of validation and test do not."""
    data = classified(kind)
    train, validation, test = (
        Marked(source, data.facts.shape, kind.seed + number, kind.opinions if number == 0 else 0)
        for number, source in enumerate((data.train, data.validation, data.test))
    )
    return Data(train, validation, test, replace(data.facts, task="regression", classes=1, names=()))


def smoothed(images: Tensor) -> Tensor:
    """Images [B, C, H, W] under two passes of a mean over 3 x 3 pixels, the border repeated."""
    for _ in range(2):
        images = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return images
