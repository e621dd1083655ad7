"""A small detector that looks for objects at every place of a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.networks.task_kinds import GFL as Kind

RARE = 0.01
"""Probability that a place has an object of a class, before training (Lin et al. 2017, arXiv:1708.02002)."""


class GFL(nn.Module):
    """Li et al. 2020 (generalised focal loss, arXiv:2006.04388), with one grid in place of a pyramid.

    Input [B, C, H, W]; the output names `logits` [B, P, classes], `edges` [B, P, 4, reach + 1], `places` [B, P, 4] and
    `boxes` [B, P, 4] as stillhouse.objectives.detection says. An edge's distance is the mean of its distribution.
    Can be tapped: `backbone`, feature maps [B, width, H / stride, W / stride]. Batch norm, where the paper's heads have
    group norm. Raises StillhouseError where the data is not for detection, or its size no multiple of the stride.
    """

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        if facts.task != "detection":
            raise StillhouseError(f"network {kind.word!r} finds objects, and the data is for {facts.task}")
        if any(side % kind.stride for side in facts.shape[1:]):
            raise StillhouseError(f"network.stride: {kind.stride} does not divide images of {facts.shape[1:]}")
        self.reach = kind.reach
        strides = [2] * (kind.stride.bit_length() - 1) + [1] * kind.layers
        inside = [facts.shape[0]] + [kind.width] * len(strides)
        self.backbone = nn.Sequential(*(_block(i, kind.width, s) for i, s in zip(inside, strides, strict=False)))
        self.tower = _block(kind.width, kind.width, stride=1)
        self.named = nn.Conv2d(kind.width, facts.classes, 3, padding=1)
        self.located = nn.Conv2d(kind.width, 4 * (kind.reach + 1), 3, padding=1)
        nn.init.constant_(self.named.bias, -math.log((1 - RARE) / RARE))  # pyright: ignore[reportArgumentType]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        seen = self.tower(self.backbone(image))
        logits = self.named(seen).flatten(2).transpose(1, 2)
        edges = self.located(seen).flatten(2).transpose(1, 2).unflatten(2, (4, self.reach + 1))
        places = self._places(seen).expand(len(image), -1, -1)
        units = torch.arange(self.reach + 1, device=image.device, dtype=torch.float32)
        away = (edges.float().softmax(-1) * units).sum(-1) * places[..., 2:].repeat(1, 1, 2)
        at = places[..., :2]
        boxes = torch.cat([at - away[..., :2], at + away[..., 2:]], -1)
        return {"logits": logits, "edges": edges, "places": places, "boxes": boxes}

    def _places(self, seen: Tensor) -> Tensor:
        """Middle and size of each cell of the grid, row by row, [1, P, 4]."""
        high, wide = seen.shape[-2:]
        y, x = ((torch.arange(n, device=seen.device, dtype=torch.float32) + 0.5) / n for n in (high, wide))
        y, x = torch.meshgrid(y, x, indexing="ij")
        unit = [torch.full_like(x, 1 / wide), torch.full_like(x, 1 / high)]
        return torch.stack([x, y, *unit], -1).view(1, -1, 4)


def _block(inside: int, outside: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU())
