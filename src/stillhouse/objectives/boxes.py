"""Boxes by their corners (left, top, right, bottom), in shares of the image's width and height."""

from __future__ import annotations

import torch
from torch import Tensor


def from_centre(boxes: Tensor) -> Tensor:
    """Boxes [..., 4] given by centre, width and height, by their corners."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def to_centre(boxes: Tensor) -> Tensor:
    """Boxes [..., 4] given by their corners, by centre, width and height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def area(boxes: Tensor) -> Tensor:
    """Of boxes [..., 4], [...]; zero where a side is negative."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4] and [..., 4] that broadcast, [...]; zero where both are empty."""
    both = _intersection(first, second)
    return both / (area(first) + area(second) - both).clamp(min=1e-12)


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU less the share of the smallest box around both that neither covers, -1 to 1 (Rezatofighi et al. 2019,
    arXiv:1902.09630), of boxes [..., 4] that broadcast, [...]."""
    both = _intersection(first, second)
    either = area(first) + area(second) - both
    corners = [torch.minimum(first[..., :2], second[..., :2]), torch.maximum(first[..., 2:], second[..., 2:])]
    around = area(torch.cat(corners, -1)).clamp(min=1e-12)
    return both / either.clamp(min=1e-12) - (around - either) / around


def suppressed(boxes: Tensor, scores: Tensor, *, above: float) -> Tensor:
    """Non-maximum suppression: the numbers of the boxes [N, 4] that stay, best score [N] first; a box goes where one
    that stays overlaps it by more than `above` (IoU)."""
    order = scores.argsort(descending=True, stable=True)
    overlaps = iou(boxes[order].unsqueeze(1), boxes[order].unsqueeze(0)) > above
    stays = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for place in range(len(order)):
        if stays[place]:
            stays[place + 1 :] &= ~overlaps[place, place + 1 :]
    return order[stays]


def _intersection(first: Tensor, second: Tensor) -> Tensor:
    corners = [torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])]
    return area(torch.cat(corners, -1))
