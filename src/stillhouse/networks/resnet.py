"""Residual networks for small images (He et al. 2015, arXiv:1512.03385, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Facts
from stillhouse.networks.kinds import ResNet as Kind
from stillhouse.networks.pool import MeanPool


class Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut without parameters.

    Where the shape changes, the shortcut is option A of the paper: every second pixel, and zeros
    for the new channels, half of them before and half behind, as the pretrained weights in
    circulation expect.
    """

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.stride, self.new = stride, outside - inside

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and not self.new:
            return x
        before = self.new // 2
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new - before))


class ResNet(nn.Module):
    """6 n + 2 layers: a convolution, three stages of n blocks with 1, 2 and 4 times the width, a linear head.

    Input [B, C, H, W], any H and W; output logits [B, classes]. `features.pool` is what the head sees. Activations lie
    channels-last in memory: the convolutions of a CPU are then up to twice as fast.
    """

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        width, blocks = kind.width, (kind.depth - 2) // 6
        self.conv1 = nn.Conv2d(facts.shape[0], width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.pool = MeanPool()
        self.linear = nn.Linear(4 * width, facts.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)  # He et al. 2015, arXiv:1502.01852, eq. 10

    def forward(self, image: Tensor) -> Tensor:
        x = image.contiguous(memory_format=torch.channels_last)
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.pool(x))


def _stage(inside: int, outside: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = Block(inside, outside, stride)
    return nn.Sequential(first, *(Block(outside, outside, 1) for _ in range(blocks - 1)))
