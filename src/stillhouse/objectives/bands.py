"""Feature maps compared in bands of their frequencies: by contrast, and under learned masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.errors import StillhouseError
from stillhouse.objectives.divergences import at_least_fp32
from stillhouse.objectives.features import both, haar, same_resolution


def band_contrast(
    student: Tensor, target: Tensor, *, low: float = 0.25, high: float = 1.0, temperature: float = 0.1
) -> Tensor:
    """Band-pass-specific contrastive distillation, Li et al. 2023 (ICCV, arXiv:2308.08463), section 3.4.

    Of each map the frequencies with low <= max(|f_h|, |f_w|) / (1 / 2) <= high are kept; with s_i and t_i of unit
    length what is left, -log(exp(s_i.t_i / T) / sum_j exp(s_i.t_j / T)) over the examples j of the batch. The paper's
    code takes a cosine transform and its negatives from a bank of earlier examples; here the batch's others are.

    Args: maps [B, C, H, W] of one shape. Returns [B], at least zero.
    Raises StillhouseError where the band holds no frequency of such maps.
    """
    ours, theirs = (
        functional.normalize(band(at_least_fp32(x), low, high).flatten(1)) for x in (student, target.detach())
    )
    scores = ours @ theirs.T / temperature
    return scores.logsumexp(1) - scores.diagonal()


def band(maps: Tensor, low: float, high: float) -> Tensor:
    """Maps [B, C, H, W] with the frequencies outside the band removed."""
    down, across = torch.fft.fftfreq(maps.shape[-2]).abs(), torch.fft.rfftfreq(maps.shape[-1])
    place = 2 * torch.maximum(down[:, None], across[None])
    keep = (place >= low) & (place <= high)
    if not keep.any():
        raise StillhouseError(f"band_contrast: no frequency of maps {list(maps.shape[-2:])} lies in {low} to {high}")
    return torch.fft.irfft2(torch.fft.rfft2(maps) * keep.to(maps.device), s=maps.shape[-2:])


class FrequencyPrompts(nn.Module):
    """Where a band matters, by learned prompts: FreeKD, Zhang et al. 2024 (CVPR, arXiv:2311.12079), section 3.

    The teacher's map is split by `levels` of a Haar transform. On each level a prompt p [C] masks the positions by
    sigmoid(p . band), the band being the sum of the level's three high ones; the lowest band has prompts of its own.
    The student's map, through a 1 x 1 convolution, is split as well, and the value is the sum over levels of the
    mean over prompts, bands and entries of mask |student's - teacher's|: high bands alone, as in the authors' code.

    The prompts are trained on the task alone: each band times the sum of its masks is put together to a map again, a
    convolution, ReLU, mean pooling and a linear layer read it, and cross-entropy to the labels is added, as is the dice
    coefficient of the masks of each two prompts, which keeps the prompts apart (mean over pairs, summed over bands).

    Deviations: the paper trains the prompts in a phase of its own, inside the teacher, which is fine-tuned with them;
    here the teacher stays as it is and a small reader is trained along. The text's weights of positions by their
    relations to other layers, which the code lacks too, are left out.

    Args of forward: maps [B, C, H, W] of both sides, `labels` [B] classes. Returns [B].
    Raises StillhouseError for other signals or labels, or where 2^levels does not divide the maps' height and width.
    """

    def __init__(self, student: Tensor, target: Tensor, *, classes: int, prompts: int = 2, levels: int = 1) -> None:
        super().__init__()
        _, theirs = same_resolution(student, target)
        width, *size = theirs.shape[1:]
        if any(side % 2**levels for side in size):
            raise StillhouseError(
                f"{levels} levels of bands need maps whose height and width {2**levels} divides, and these are {size}: "
                "set fewer `levels`, or tap a layer of higher resolution"
            )
        self.levels = levels
        self.align = nn.Conv2d(student.shape[1], width, 1)
        self.prompts = nn.Parameter(0.01 * torch.randn(levels + 1, prompts, width))
        self.read = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, classes),
        )

    def forward(self, student: Tensor, target: Tensor, *, labels: Tensor) -> Tensor:
        if labels.dim() != 1:
            raise StillhouseError(
                f"frequency_prompts needs one class an example, and the labels have shape {tuple(labels.shape)}"
            )
        with torch.autocast(student.device.type, enabled=False):
            ours, theirs = both(*same_resolution(self.align(at_least_fp32(student)), target))
            own, other = self._bands(ours), self._bands(theirs)
            masks = [
                torch.einsum("tc,bchw->bthw", prompts, band.sum(1)).sigmoid()
                for prompts, band in zip(self.prompts, other, strict=True)
            ]
            values = functional.cross_entropy(self.read(self._masked(other, masks)), labels, reduction="none")
            for mask in masks:
                values = values + _dice(mask.flatten(2))
            for mask, one, two in zip(masks[:-1], own, other, strict=False):
                kept = mask.detach().mean(1)[:, None, None]  # over prompts: [B, 1, 1, h, w]
                values = values + (kept * (one - two).abs()).flatten(1).mean(1)
        return values

    def _bands(self, maps: Tensor) -> list[Tensor]:
        """The three high bands of each level [B, 3, C, h, w], then the low one [B, 1, C, h, w]."""
        bands = []
        for _ in range(self.levels):
            maps, *high = haar(maps)
            bands.append(torch.stack(high, 1))
        return [*bands, maps.unsqueeze(1)]

    def _masked(self, bands: list[Tensor], masks: list[Tensor]) -> Tensor:
        """The map [B, C, H, W] of the bands, each times the sum of its masks."""
        *high, low = (band * mask.sum(1)[:, None, None] for band, mask in zip(bands, masks, strict=True))
        maps = low.squeeze(1)
        for level in reversed(high):
            maps = unhaar(maps, level)
        return maps


def unhaar(low: Tensor, high: Tensor) -> Tensor:
    """The maps [B, C, 2 h, 2 w] whose Haar transform is a low band [B, C, h, w] and high ones [B, 3, C, h, w]."""
    lh, hl, hh = high.unbind(1)
    sums, differences = (torch.stack([one + two, one - two], -1).flatten(-2) for one, two in ((low, lh), (hl, hh)))
    return torch.stack([(sums + differences) / 2, (sums - differences) / 2], -2).flatten(-3, -2)


def _dice(masks: Tensor) -> Tensor:
    """2 a.b / (a.a + b.b), the mean over all pairs of prompts: [B, T, positions] to [B]; zero for a single prompt."""
    products = masks @ masks.mT
    squares = products.diagonal(dim1=1, dim2=2)
    alike = 2 * products / (squares.unsqueeze(1) + squares.unsqueeze(2))
    count = masks.shape[1]
    return (alike.sum((1, 2)) - count) / max(count * (count - 1), 1)
