"""Losses between a student's and a teacher's features that train nothing of their own.

Feature maps are [B, C, H, W]; where a function says vectors, anything [B, ...] is flattened to one. A list of layers
gives the sum over them. Every function computes in at least fp32, also under autocast, gives one value an example
[B], and lets gradients flow to the student alone. The mean of the values over the batch, times the constant that a
docstring names, is the paper's loss: batch-wise matrices give one value a row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.errors import StillhouseError
from stillhouse.objectives.divergences import at_least_fp32, correlation

Sides = Tensor | list[Tensor]


def many(sides: Sides) -> list[Tensor]:
    """One signal as a list of one; a list as it is."""
    return [sides] if isinstance(sides, Tensor) else sides


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same loss with autocast switched off: its matrix products stay in the precision of their inputs."""

    @functools.wraps(loss)
    def exact(student: Sides, target: Sides, **options: object) -> Tensor:
        first = student if isinstance(student, Tensor) else student[0]
        with torch.autocast(first.device.type, enabled=False):
            return loss(student, target, **options)

    return exact


def attention_transfer(
    student: Sides, target: Sides, *, form: Literal["code", "paper"] = "code", power: float = 2.0
) -> Tensor:
    """Distance of spatial attention maps, Zagoruyko & Komodakis 2017 (arXiv:1612.03928), section 3.1, eq. 2.

    A layer's map is sum_c |F_c|^power over the channels, flattened and divided by its 2-norm. The paper's text and
    its code disagree: `paper` is the 2-norm of the maps' difference (eq. 2, which stands under a factor beta / 2),
    `code` the mean over positions of the squared difference.

    Args: feature maps [B, C, H, W], or a list; the widths may differ, and the larger map is average-pooled to the
        smaller. Returns [B], the sum over layers.
    """
    total = torch.zeros(())
    for ours, theirs in layers(student, target):
        ours, theirs = same_resolution(ours, theirs)
        difference = _attention(ours, power) - _attention(theirs, power)
        value = difference.square().mean(1) if form == "code" else torch.linalg.vector_norm(difference, dim=1)
        total = total.to(value) + value
    return total


@full_precision
def similarity_preserving(student: Sides, target: Sides) -> Tensor:
    """Similarities within the batch, Tung & Mori 2019 (arXiv:1907.09682), section 2.

    G = Q Q^T of the flattened features, each row divided by its 2-norm; row i gives sum_j (Gs_ij - Gt_ij)^2 / B, so
    the mean over the batch is the paper's ||Gs - Gt||_F^2 / B^2.

    Args: features [B, ...] of any two shapes, or a list. Returns [B].
    """
    total = torch.zeros(())
    for ours, theirs in layers(student, target):
        value = (_similarities(ours) - _similarities(theirs)).square().mean(1)
        total = total.to(value) + value
    return total


@full_precision
def probabilistic(student: Tensor, target: Tensor) -> Tensor:
    """PKT: KL of neighbour probabilities, Passalis & Tefas 2018 (arXiv:1803.10837), with its cosine kernel.

    p_ij is (1 + cos(x_i, x_j)) / 2 divided by its sum over j; row i gives sum_j pt_ij log(pt_ij / ps_ij), with 1e-7
    added to both probabilities in the logarithm. The sum over the rows is the paper's KL. The paper leaves out
    j = i; its code, and this, keep it. The code averages over all B^2 entries: its value is the mean over the
    batch divided by B.

    Args: vectors [B, ...] of any two widths. Returns [B].
    """
    ours, theirs = both(student, target)
    p, q = _neighbours(theirs), _neighbours(ours)
    return (p * ((p + 1e-7) / (q + 1e-7)).log()).sum(1)


@full_precision
def neuron_selectivity(
    student: Sides, target: Sides, *, kernel: Literal["linear", "polynomial", "gaussian"] = "polynomial"
) -> Tensor:
    """NST: squared MMD between the channels' activation maps, Huang & Wang 2017 (arXiv:1707.01219).

    A channel's map, divided by its 2-norm, is one draw; k(x, y) is x.y, (x.y)^2, or exp(-|x - y|^2 / (2 s^2)).
    The means over all pairs include a map with itself. The paper takes s^2 as the mean squared distance of the
    pairs; here it is that of the teacher's own pairs, which does not move while the student learns.

    Args: feature maps [B, C, H, W] of any two widths, or a list; the larger map is average-pooled to the smaller.
    Returns [B], the sum over layers.
    """
    total = torch.zeros(())
    for ours, theirs in layers(student, target):
        ours, theirs = (functional.normalize(x.flatten(2), dim=2) for x in same_resolution(ours, theirs))
        k = _kernel(kernel, theirs)
        value = k(theirs, theirs) + k(ours, ours) - 2 * k(ours, theirs)
        total = total.to(value) + value
    return total


@full_precision
def solution_flow(student: list[Tensor], target: list[Tensor]) -> Tensor:
    """FSP: what one layer makes of another, Yim et al. 2017 (CVPR, "A Gift from Knowledge Distillation"), eqs. 1, 2.

    G_ab = 1 / (H W) sum_hw F1_a F2_b for each two layers that follow one another in the list; the value is
    ||Gs - Gt||_F^2, summed over the pairs. Of two resolutions, the larger is max-pooled, as in the paper.

    Args: two lists of at least two feature maps [B, C, H, W], the teacher's as wide as the student's.
    Returns [B]. Raises StillhouseError for a single layer, or where the widths differ.
    """
    found = layers(student, target)
    if len(found) < 2:
        raise StillhouseError(
            "`by: fsp` compares two layers with one another: give `signal` a list of two taps or more"
        )
    total = torch.zeros(())
    for (ours, theirs), (ours_next, theirs_next) in pairwise(found):
        flow, wanted = _flow(ours, ours_next), _flow(theirs, theirs_next)
        if flow.shape != wanted.shape:
            raise StillhouseError(
                f"the student's layers have {flow.shape[1]} and {flow.shape[2]} channels, the teacher's "
                f"{wanted.shape[1]} and {wanted.shape[2]}: `project: conv` fits the student's to the teacher's"
            )
        value = (flow - wanted).square().sum((1, 2))
        total = total.to(value) + value
    return total


@full_precision
def inter_channel(student: Tensor, target: Tensor) -> Tensor:
    """ICKD-C: correlations between channels, Liu et al. 2021 (ICCV, "Exploring Inter-Channel Correlation").

    G = F F^T of the maps as rows [C, H W]. The paper's text has ||Gs - Gt||_F^2 / C^2; its code, followed here,
    divides each row of G by its 2-norm, without which the size of the features rules, and divides by C: the value
    is ||Gs - Gt||_F^2 / C. The code divides by B^2: its loss is the mean over the batch divided by B. Its batch norm
    after the 1 x 1 convolution (`project: conv`) is left out.

    Args: feature maps [B, C, H, W] of one width; the resolutions may differ. Returns [B].
    """
    ours, theirs = both(student, target)
    grams = [functional.normalize(x @ x.mT, dim=2) for x in (ours.flatten(2), theirs.flatten(2))]
    return (grams[0] - grams[1]).square().sum((1, 2)) / ours.shape[1]


def cosine(student: Sides, target: Sides) -> Tensor:
    """1 - cos of the two vectors at each position, averaged over positions.

    Used by DistilBERT (Sanh et al. 2019, arXiv:1910.01108, section 3) and many since.

    Args: [B, ..., D] compared over the last dimension, or maps [B, C, H, W] over the channels; or a list.
    Returns [B], between 0 and 2, the sum over layers.
    """
    total = torch.zeros(())
    for ours, theirs in layers(student, target):
        value = 1 - functional.cosine_similarity(*(channels_last(x) for x in _equal(ours, theirs)), dim=-1)
        value = value.flatten(1).mean(1) if value.dim() > 1 else value
        total = total.to(value) + value
    return total


def unit_correlation(student: Sides, target: Sides) -> Tensor:
    """1 - Pearson's correlation, over the batch, of each unit with the teacher's unit of the same number.

    As in Flex-KD (Saadi & Wang 2025, arXiv:2507.10155), whose units are the teacher's that matter most to the task
    (method `task-units`). A value for each unit, not for each example.

    Args: [B, ..., D], or maps [B, C, H, W] with their channels second; or a list. Returns [D] in [0, 2], the layers'
    one behind the other.
    """
    values = []
    for ours, theirs in layers(student, target):
        columns = (channels_last(x).flatten(0, -2).T for x in _equal(ours, theirs))
        values.append(1 - correlation(*columns))
    return torch.cat(values)


def standardised_smooth_l1(student: Sides, target: Sides, *, beta: float = 2.0) -> Tensor:
    """Smooth L1 to the teacher's features, standardised, Wei et al. 2022 (arXiv:2205.14141), section 3.

    The teacher's vector at each position is moved to mean 0 and variance 1 over its channels (a layer norm without
    scale and shift); d^2 / (2 beta) where |d| < beta, |d| - beta / 2 beyond, averaged over all but the batch.

    Args: [B, ..., D], or maps [B, C, H, W] with their channels second; or a list. Returns [B], the sum over layers.
    """
    total = torch.zeros(())
    for ours, theirs in layers(student, target):
        ours, theirs = (channels_last(x) for x in _equal(ours, theirs))
        value = functional.smooth_l1_loss(ours, standardised(theirs), reduction="none", beta=beta).flatten(1).mean(1)
        total = total.to(value) + value
    return total


def frequency_bands(student: Tensor, target: Tensor, *, levels: int = 1, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Distance band by band of a Haar wavelet transform, after FreeKD, Zhang et al. 2023 (arXiv:2311.12079), section 3.

    Each level splits a map into its low band and three high ones of half the size, and goes on with the low one. The
    squared difference in the high bands counts `high`, that in the last low band `low`; divided by C H W. The transform
    is orthonormal: with both at one this is the mean squared difference. FreeKD distils the high bands; its learned
    masks are those of `bands.FrequencyPrompts`.

    Args: feature maps [B, C, H, W] of one shape. Returns [B].
    Raises StillhouseError where H or W does not split in half `levels` times.
    """
    ours, theirs = _equal(*both(student, target))
    if ours.dim() != 4 or any(size % 2**levels for size in ours.shape[2:]):
        raise StillhouseError(
            f"{levels} levels of bands need maps whose height and width {2**levels} divides, and the tap gives "
            f"{tuple(ours.shape)}: set fewer `levels`, or tap a layer of higher resolution"
        )
    band, value = ours - theirs, torch.zeros(len(ours), dtype=ours.dtype, device=ours.device)
    for _ in range(levels):
        band, *details = haar(band)
        value = value + high * sum(detail.square().flatten(1).sum(1) for detail in details)
    return (value + low * band.square().flatten(1).sum(1)) / ours[0].numel()


def pyramid(student: Tensor, target: Tensor) -> Tensor:
    """HCL, the hierarchical context loss of knowledge review, Chen et al. 2021 (arXiv:2104.09044), section 3.3.

    The mean squared difference of the maps, and of the maps average-pooled to 4 x 4, 2 x 2 and 1 x 1 where that is
    smaller, weighted 1, 1/2, 1/4, 1/8 in turn and divided by the sum of the weights. The weights are the authors'
    code's; the text gives none.

    Args: feature maps [B, C, H, W] of one shape. Returns [B].
    """
    ours, theirs = _equal(*both(student, target))
    difference = ours - theirs
    value, weight, total = difference.square().flatten(1).mean(1), 1.0, 1.0
    for size in (4, 2, 1):
        if size < ours.shape[2]:
            weight /= 2
            total += weight
            value = value + weight * functional.adaptive_avg_pool2d(difference, size).square().flatten(1).mean(1)
    return value / total


def layers(student: Sides, target: Sides) -> list[tuple[Tensor, Tensor]]:
    """Both sides layer by layer, in at least fp32 and one dtype, the target's without gradient."""
    ours, theirs = many(student), many(target)
    if len(ours) != len(theirs):
        raise StillhouseError(
            f"{len(ours)} of the student's layers are held to {len(theirs)} of the teacher's: name as many in "
            "`signal` as in `teacher_signal`"
        )
    return [both(own, other) for own, other in zip(ours, theirs, strict=True)]


def both(student: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in at least fp32 and in one dtype, the target without gradient."""
    ours = at_least_fp32(student)
    return ours, target.detach().to(ours.dtype)


def same_resolution(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [B, C, H, W], each average-pooled to the smaller height and width of the two.

    Raises StillhouseError for what is no feature map.
    """
    for x in (ours, theirs):
        if x.dim() != 4:
            raise StillhouseError(
                f"this term compares feature maps [B, C, H, W], and a tap gives {tuple(x.shape)}: tap a convolution"
            )
    size = _smaller(ours, theirs)
    pooled = [x if x.shape[2:] == size else functional.adaptive_avg_pool2d(x, size) for x in (ours, theirs)]
    return pooled[0], pooled[1]


def channels_last(x: Tensor) -> Tensor:
    """Maps [B, C, H, W] as [B, H, W, C]; anything else as it is."""
    return x.movedim(1, -1) if x.dim() == 4 else x


def standardised(x: Tensor) -> Tensor:
    """To mean 0 and variance 1 over the last dimension."""
    return functional.layer_norm(x, x.shape[-1:])


def whitened(x: Tensor, *, eps: float = 1e-4) -> Tensor:
    """Vectors [..., D], all of them together, to mean 0 and covariance one (ZCA).

    `eps` of the mean variance is added to each eigenvalue, so that directions which do not vary stay small.
    """
    rows = x.flatten(0, -2)
    rows = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    scale = (values.clamp(min=0) + eps * values.mean()).rsqrt()
    return (rows @ (vectors * scale) @ vectors.T).view_as(x)


def pooled(x: Tensor) -> Tensor:
    """Maps averaged over positions [B, C]; vectors and tokens [B, ..., D] as they are."""
    return x.mean((2, 3)) if x.dim() == 4 else x


def _equal(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    if ours.shape != theirs.shape:
        raise StillhouseError(
            f"the student's features have shape {tuple(ours.shape)}, the teacher's {tuple(theirs.shape)}: set "
            "`project`, or tap layers of one shape"
        )
    return ours, theirs


def _smaller(first: Tensor, second: Tensor) -> tuple[int, int]:
    return min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])


def _attention(x: Tensor, power: float) -> Tensor:
    return functional.normalize(x.abs().pow(power).sum(1).flatten(1), dim=1)


def _similarities(x: Tensor) -> Tensor:
    x = x.flatten(1)
    return functional.normalize(x @ x.T, dim=1)


def _neighbours(x: Tensor) -> Tensor:
    x = functional.normalize(x.flatten(1), dim=1)
    similarity = (x @ x.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)


def _kernel(name: str, teacher: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean of a kernel over all pairs of maps [B, C, N], as a function of two such sets; gives [B]."""
    if name == "linear":
        return lambda a, b: (a @ b.mT).mean((1, 2))
    if name == "polynomial":
        return lambda a, b: (a @ b.mT).square().mean((1, 2))
    width = _distances(teacher, teacher).mean((1, 2), keepdim=True).clamp(min=1e-12)
    return lambda a, b: torch.exp(-_distances(a, b) / (2 * width)).mean((1, 2))


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of all pairs of [B, C, N] and [B, D, N]: [B, C, D]."""
    return a.square().sum(2).unsqueeze(2) + b.square().sum(2).unsqueeze(1) - 2 * a @ b.mT


def _flow(first: Tensor, second: Tensor) -> Tensor:
    size = _smaller(first, second)
    one, two = (functional.adaptive_max_pool2d(x, size).flatten(2) for x in (first, second))
    return one @ two.mT / one.shape[2]


def haar(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One level of the orthonormal Haar transform of [B, C, H, W]: the low band, then three high ones."""
    even, odd = x[..., ::2, :], x[..., 1::2, :]
    rows = even + odd, even - odd
    (ll, lh), (hl, hh) = (((y[..., ::2] + y[..., 1::2]) / 2, (y[..., ::2] - y[..., 1::2]) / 2) for y in rows)
    return ll, lh, hl, hh
