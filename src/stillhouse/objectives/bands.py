"""Contrast between feature maps in a band of their frequencies."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.errors import StillhouseError
from stillhouse.objectives.divergences import at_least_fp32


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
