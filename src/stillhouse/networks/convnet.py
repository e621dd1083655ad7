"""A small convolutional classifier."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Facts
from stillhouse.networks.kinds import ConvNet as Kind
from stillhouse.networks.pool import MeanPool


class ConvNet(nn.Module):
    """Three 3 x 3 convolutions (strides 1, 2, 2), each with batch norm and ReLU; mean pooling; a linear head.

    Input [B, C, H, W], any H and W; output logits [B, classes]. `features.pool` is what the head sees, and
    `features.map` [B, 4 width, H / 4, W / 4] the same before it is averaged over places.
    """

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        one, two, four = kind.width, 2 * kind.width, 4 * kind.width
        self.conv1 = nn.Conv2d(facts.shape[0], one, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(one)
        self.conv2 = nn.Conv2d(one, two, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(two)
        self.conv3 = nn.Conv2d(two, four, 3, stride=2, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(four)
        self.map = nn.Identity()
        self.pool = MeanPool()
        self.linear = nn.Linear(four, facts.classes)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(image)))
        x = functional.relu(self.bn2(self.conv2(x)))
        x = functional.relu(self.bn3(self.conv3(x)))
        return self.linear(self.pool(self.map(x)))
