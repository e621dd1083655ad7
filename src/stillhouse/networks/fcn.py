"""A small fully convolutional network."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from stillhouse.engine.contracts import Facts
from stillhouse.networks.kinds import FCN as Kind


def fcn(kind: Kind, facts: Facts) -> nn.Module:
    """3 x 3 convolutions with batch norm and ReLU, none with a stride, and a class for every pixel.

    Input [B, C, H, W]; output logits [B, classes, H, W]. The blocks can be tapped: `blocks.0`, `blocks.1`, ...
    Long, Shelhamer & Darrell 2015 (arXiv:1411.4038), without pooling: for small images.
    """
    blocks, inside = nn.Sequential(), facts.shape[0]
    for _ in range(kind.layers):
        convolution = nn.Conv2d(inside, kind.width, 3, padding=1, bias=False)
        blocks.append(nn.Sequential(convolution, nn.BatchNorm2d(kind.width), nn.ReLU()))
        inside = kind.width
    head = nn.Conv2d(inside, facts.classes, 1)
    return nn.Sequential(OrderedDict([("blocks", blocks), ("head", head)]))
