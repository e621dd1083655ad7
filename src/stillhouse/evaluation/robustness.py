"""Accuracy on images that were corrupted, the same way for every arm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from stillhouse.engine.seeds import derive
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.answers import answers, batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.kinds import Robustness


@dataclass(frozen=True)
class Corruption:
    """A way to spoil images [B, C, H, W] in [0, 1], by a strength in a unit of its own."""

    name: str
    unit: str
    strongest: Callable[[int], float]
    """From the smaller side of an image, in pixels."""
    apply: Callable[[Tensor, float, Generator], Tensor]
    whole: bool = False
    """Whether the strength is a number of pixels."""

    def strengths(self, side: int, levels: int) -> list[float]:
        """Evenly up to the strongest, without 0."""
        found = [self.strongest(side) * n / levels for n in range(1, levels + 1)]
        return sorted({float(max(1, round(v))) for v in found}) if self.whole else found


def robustness(kind: Robustness, arm: Arm, context: Context) -> Findings:
    """`robust_accuracy`: the mean accuracy over all kinds of corruption and all their strengths.

    What is random in a corruption depends on the run's seed, its kind and its strength alone: every arm sees the
    same images. Raises StillhouseError where the batch has no images.
    """
    clean = answers(arm, context)
    side = _smaller_side(context)
    chosen = [CORRUPTIONS[name] for name in kind.corruptions]
    cells = [(c, strength) for c in chosen for strength in c.strengths(side, kind.levels)]
    streams = [torch.Generator().manual_seed(derive(context.seed, "robustness", c.name, s)) for c, s in cells]
    right: list[list[Tensor]] = [[] for _ in cells]
    with measuring(arm.model):
        for batch in batches(context.source, context.batch_size, context.device):
            labels, _ = arm.model.view.targets(batch)
            for (corruption, strength), rng, kept in zip(cells, streams, right, strict=True):
                spoiled = corruption.apply(batch["image"], strength, rng)
                guesses = arm.model.signals(batch | {"image": spoiled})["logits"].argmax(-1)
                kept.append((guesses == labels).double().cpu())
    table = torch.stack([torch.cat(kept) for kept in right])  # [cells, N]
    accuracy = dict(zip(((c.name, s) for c, s in cells), table.mean(1).tolist(), strict=True))
    figures = []
    for corruption in chosen:
        strengths = corruption.strengths(side, kind.levels)
        values = [clean.right.double().mean().item(), *(accuracy[corruption.name, s] for s in strengths)]
        figures.append(
            {
                "kind": "lines",
                "title": f"Accuracy under {corruption.name}",
                "x": [0.0, *strengths],
                "series": {"": values},
                "xlabel": corruption.unit,
                "ylabel": "accuracy",
                "unit": "share",
                "range": [0.0, 1.0],
                "about": "Every arm sees the same spoiled images.",
            }
        )
    return Findings(
        metrics={"robust_accuracy": table.mean().item()},
        figures=figures,
        per_example={"robust_accuracy": table.mean(0).tolist()},
    )


def noise(images: Tensor, deviation: float, rng: Generator) -> Tensor:
    """Gaussian noise on every value, cut off at 0 and 1."""
    return (images + deviation * torch.randn(images.shape, generator=rng).to(images)).clamp(0, 1)


def blur(images: Tensor, sigma: float, rng: Generator) -> Tensor:
    """A Gaussian kernel of `sigma` pixels, cut off at three of them; the edge goes on as it is."""
    del rng
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-torch.arange(-reach, reach + 1).to(images).square() / (2 * sigma**2))
    weights = weights / weights.sum()
    padded = functional.pad(images.flatten(0, 1).unsqueeze(1), [reach] * 4, mode="replicate")  # [B C, 1, H', W']
    down = functional.conv2d(padded, weights.view(1, 1, -1, 1))
    return functional.conv2d(down, weights.view(1, 1, 1, -1)).view_as(images)


def shift(images: Tensor, pixels: float, rng: Generator) -> Tensor:
    """Each image moved up, down, left or right; black comes in behind it."""
    way = torch.randint(4, (len(images),), generator=rng).to(images.device)
    by, (height, width) = int(pixels), images.shape[-2:]
    padded = functional.pad(images, [by] * 4)
    moved = torch.empty_like(images)
    for number, (top, left) in enumerate(((0, by), (2 * by, by), (by, 0), (by, 2 * by))):
        moved[way == number] = padded[way == number, :, top : top + height, left : left + width]
    return moved


def occlusion(images: Tensor, pixels: float, rng: Generator) -> Tensor:
    """A grey square of that side somewhere within each image."""
    size = int(pixels)
    covered = torch.ones(len(images), 1, 1, 1, dtype=torch.bool, device=images.device)
    for axis, length in ((-2, images.shape[-2]), (-1, images.shape[-1])):
        start = torch.randint(max(1, length - size + 1), (len(images),), generator=rng).to(images.device)
        places = torch.arange(length, device=images.device)
        inside = (places >= start[:, None]) & (places < start[:, None] + size)  # [B, length]
        covered = covered & (inside[:, None, :, None] if axis == -2 else inside[:, None, None, :])
    return torch.where(covered, 0.5, images)


def contrast(images: Tensor, taken: float, rng: Generator) -> Tensor:
    """Every value moved towards its image's mean, by this share of the way."""
    del rng
    return images + taken * (images.mean((1, 2, 3), keepdim=True) - images)


CORRUPTIONS = {
    found.name: found
    for found in (
        Corruption("noise", "standard deviation of the noise, where white is 1", lambda side: 0.5, noise),
        Corruption("blur", "sigma of the blur, pixels", lambda side: 0.2 * side, blur),
        Corruption("shift", "shift, pixels", lambda side: 0.5 * side, shift, whole=True),
        Corruption("occlusion", "side of the grey square, pixels", lambda side: 0.6 * side, occlusion, whole=True),
        Corruption("contrast", "share of the contrast taken away", lambda side: 0.9, contrast),
    )
}


def _smaller_side(context: Context) -> int:
    fields = context.source.fetch(torch.zeros(1, dtype=torch.long), None)
    if "image" not in fields or fields["image"].dim() != 4:
        raise StillhouseError(
            f"robustness corrupts images, and this data has {', '.join(fields)}: leave it out of 'evaluate'"
        )
    return min(fields["image"].shape[-2:])
