"""Images moved, turned, zoomed and cropped, with gradients to how."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def moved(image: Tensor, right: Tensor, down: Tensor, angle: Tensor, log_zoom: Tensor) -> Tensor:
    """Images [B, C, H, W] moved by `right` and `down` (shares of width and height), turned left by `angle` (radians;
    square images) and made exp(`log_zoom`) times as large, [B] each; zeros move in, pixels are interpolated."""
    cos, sin = angle.cos() * (-log_zoom).exp(), angle.sin() * (-log_zoom).exp()
    x, y = -2 * right, -2 * down  # where a pixel comes from: the inverse map, coordinates from -1 to 1
    return sampled(image, torch.stack([cos, -sin, cos * x - sin * y, sin, cos, sin * x + cos * y], 1).view(-1, 2, 3))


def cropped(image: Tensor, boxes: Tensor) -> Tensor:
    """The part of each image [B, C, H, W] in its box, at the image's own size: boxes [B, 3] hold the share of height
    and width, and the centre's x and y from -1 to 1."""
    size, x, y = boxes.unbind(1)
    none = torch.zeros_like(size)
    return sampled(image, torch.stack([size, none, x, none, size, y], 1).view(-1, 2, 3))


def sampled(image: Tensor, where_from: Tensor) -> Tensor:
    """Images [B, C, H, W] read at affine maps [B, 2, 3] of their own grid, bilinearly, zero outside."""
    grid = functional.affine_grid(where_from, list(image.shape), align_corners=False)
    return functional.grid_sample(image, grid, align_corners=False)
