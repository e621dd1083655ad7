"""Losses between features that train parts of their own, which are gone at export.

Each is built as `Loss(student, target, **options)` from one batch of signals and gives one value an example [B] from
`forward(student, target)`. A feature map is [B, C, H, W]; vectors [B, D] count as maps of one position. Where two
resolutions differ, the larger map is average-pooled to the smaller. The parts run in the precision of the student's
signals; the comparison is in at least fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.errors import StillhouseError
from stillhouse.objectives.divergences import at_least_fp32
from stillhouse.objectives.features import (
    Sides,
    both,
    full_precision,
    many,
    pooled,
    pyramid,
    same_resolution,
)
from stillhouse.objectives.projectors import perceptron


class FactorTransfer(nn.Module):
    """Factors of the teacher's features and their translation, Kim et al. 2018 (arXiv:1802.04977), eqs. 1 and 4.

    A paraphraser, a convolutional autoencoder with `ratio` times the teacher's channels in its middle, describes the
    teacher's features; a translator finds the same factors in the student's. The value is the mean absolute
    difference of the two factors, each divided by its 2-norm (the paper's norm with p = 1, averaged over entries as
    its code does), and the paraphraser's mean squared error of reconstruction, which trains the paraphraser alone:
    the factors reach the translator without gradient. The paper trains the paraphraser in a phase of its own before.
    """

    def __init__(self, student: Tensor, target: Tensor, *, ratio: float = 0.5) -> None:
        super().__init__()
        ours, theirs = _width(student), _width(target)
        factors = max(1, round(ratio * theirs))
        self.translator = nn.Sequential(
            *_convolved(ours, ours), *_convolved(ours, factors), *_convolved(factors, factors)
        )
        self.encoder = nn.Sequential(
            *_convolved(theirs, theirs), *_convolved(theirs, factors), *_convolved(factors, factors)
        )
        self.decoder = nn.Sequential(
            *_convolved(factors, factors), *_convolved(factors, theirs), nn.Conv2d(theirs, theirs, 3, padding=1)
        )

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        ours, theirs = same_resolution(as_map(student), as_map(target.detach()).to(student.dtype))
        factor = self.encoder(theirs)
        told = _difference(self.decoder(factor), theirs).square().flatten(1).mean(1)
        found, wanted = (_unit(x) for x in both(self.translator(ours), factor))
        return (found - wanted).abs().mean(1) + told


class ActivationBoundary(nn.Module):
    """Which neurons are on, Heo et al. 2019 (AAAI, arXiv:1811.03233), the alternative loss.

    With s the student's features, through a 1 x 1 convolution and batch norm, and t the teacher's before their ReLU:
    the sum over neurons of relu(margin - s)^2 where t > 0 and of relu(margin + s)^2 elsewhere. The paper trains the
    layers by this alone before the task; its code weighs the layers, from the last to the first, 1, 1/2, 1/4, ...:
    here each layer is a term, with a weight.
    """

    def __init__(self, student: Tensor, target: Tensor, *, margin: float = 1.0) -> None:
        super().__init__()
        self.connect, self.margin = _connector(student, target), margin

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        ours, theirs = both(*same_resolution(self.connect(as_map(student)), as_map(target)))
        short = torch.where(theirs > 0, self.margin - ours, self.margin + ours)
        return functional.relu(short).square().flatten(1).sum(1)


class VariationalInformation(nn.Module):
    """A lower bound on the mutual information, Ahn et al. 2019 (CVPR, arXiv:1904.05835).

    -log N(t; mu(s), var) without its constant, (t - mu)^2 / (2 var) + log(var) / 2: mu is three 1 x 1 convolutions
    with ReLU between, var = softplus(a_c) + 1e-5 one number a channel of the teacher, which starts at `variance`.
    The paper sums over channels and positions; its code, followed here, averages. The value may be negative.
    """

    def __init__(self, student: Tensor, target: Tensor, *, variance: float = 5.0) -> None:
        super().__init__()
        ours, theirs = _width(student), _width(target)
        middle = 2 * theirs
        self.mean = nn.Sequential(
            nn.Conv2d(ours, middle, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(middle, middle, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(middle, theirs, 1, bias=False),
        )
        self.scale = nn.Parameter(torch.full((theirs,), variance).expm1().log())

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        ours, theirs = same_resolution(as_map(student), as_map(target))
        ours, theirs = both(self.mean(ours), theirs)
        variance = (functional.softplus(self.scale) + 1e-5).view(1, -1, 1, 1)
        return ((theirs - ours).square() / variance + variance.log()).flatten(1).mean(1) / 2


class Overhaul(nn.Module):
    """Margin ReLU and partial distance, Heo et al. 2019 (ICCV, arXiv:1904.01866), eqs. 1 to 3.

    With t the teacher's features before their ReLU, cut off below at a channel's margin m = E[t | t < 0], and s the
    student's through a 1 x 1 convolution and batch norm: the sum of (t - s)^2, but nothing where s <= t <= 0. The
    margins are the mean over all that was seen in training, as section 3.2 allows; the code takes them from the
    teacher's batch norm. The code's further factor of 1 / 1000 is for `weight`, as are the 1, 1/2, 1/4, ... with which
    it weighs the layers from the last to the first.
    """

    negatives: Tensor
    count: Tensor

    def __init__(self, student: Tensor, target: Tensor) -> None:
        super().__init__()
        self.connect = _connector(student, target)
        self.register_buffer("negatives", torch.zeros(_width(target), dtype=torch.float64))
        self.register_buffer("count", torch.zeros(_width(target), dtype=torch.float64))

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        ours, theirs = both(*same_resolution(self.connect(as_map(student)), as_map(target)))
        if self.training:
            self._see(theirs)
        margin = (self.negatives / self.count.clamp(min=1)).to(theirs.dtype).view(1, -1, 1, 1)
        theirs = theirs.maximum(margin)
        counts = (ours > theirs) | (theirs > 0)
        return ((theirs - ours).square() * counts).flatten(1).sum(1)

    def _see(self, theirs: Tensor) -> None:
        self.negatives += theirs.clamp(max=0).sum((0, 2, 3))
        self.count += (theirs < 0).sum((0, 2, 3))


class KnowledgeReview(nn.Module):
    """Review of deeper layers, Chen et al. 2021 (CVPR, arXiv:2104.09044), section 3 and figure 3.

    From the deepest layer up, each layer of the student is fused with what came from below it (ABF: 1 x 1
    convolution and batch norm, the fused features upsampled, and two attention maps, a sigmoid of a 1 x 1 convolution
    of both, that weigh the sum), brought to the teacher's width by a 3 x 3 convolution with batch norm, and held to
    the teacher's layer by `pyramid` (HCL). The value is the sum over layers. The convolutions start as PyTorch's do,
    narrower by the root of 3 than in the authors' code; batch norm follows them.

    Args: two lists of as many feature maps, from the first layer to the last; vectors after pooling may stand last.
    """

    def __init__(self, student: list[Tensor], target: list[Tensor], *, width: int = 512) -> None:
        super().__init__()
        ours, theirs = _listed(student, target)
        middle = min(width, _width(ours[-1]))
        self.inward = nn.ModuleList(_normed(_width(own), middle, 1) for own in ours)
        self.outward = nn.ModuleList(_normed(middle, _width(other), 3) for other in theirs)
        self.attention = nn.ModuleList(nn.Conv2d(2 * middle, 2, 1) for _ in ours[1:])

    def forward(self, student: list[Tensor], target: list[Tensor]) -> Tensor:
        ours, theirs = _listed(student, target)
        reviewed: Tensor | None = None
        total = torch.zeros((), device=ours[0].device)
        for at in reversed(range(len(ours))):
            own = self.inward[at](as_map(ours[at]))
            wanted = as_map(theirs[at])
            if reviewed is not None:
                own = self._fused(at, own, reviewed)
            reviewed = _resized(own, wanted)
            total = total + pyramid(self.outward[at](reviewed), wanted)
        return total

    def _fused(self, at: int, own: Tensor, below: Tensor) -> Tensor:
        below = _resized(below, own)
        shares = torch.sigmoid(self.attention[at](torch.cat([own, below], 1)))
        return own * shares[:, :1] + below * shares[:, 1:]


class SemanticCalibration(nn.Module):
    """SemCKD: each of the student's layers with each of the teacher's, Chen et al. 2021 (AAAI, arXiv:2012.03236).

    For each example, the weights of the teacher's layers for a layer of the student are a softmax of q . k: q
    and k are two-layer perceptrons, of a layer each, of the example's similarities to the batch, divided by their
    2-norm. The value is the weighted mean squared difference to the teacher's layers after convolutions 1 x 1, 3 x 3,
    1 x 1 with batch norm, averaged over the student's layers as in the code. The perceptrons' input has
    `batch_size` places: that of training (of a process and a micro-batch). In a shorter batch, the similarities to
    the examples that are not there are zero.
    """

    def __init__(self, student: Sides, target: Sides, *, batch_size: int, factor: int = 4) -> None:
        super().__init__()
        ours, theirs = many(student), many(target)
        self.batch_size, width = batch_size, max(1, batch_size // factor)
        self.queries = nn.ModuleList(perceptron(batch_size, width, width) for _ in ours)
        self.keys = nn.ModuleList(perceptron(batch_size, width, width) for _ in theirs)
        self.maps = nn.ModuleList(nn.ModuleList(_embedding(own, other) for other in theirs) for own in ours)

    def forward(self, student: Sides, target: Sides) -> Tensor:
        ours, theirs = many(student), [other.detach() for other in many(target)]
        shares = self.shares(ours, theirs)
        total = torch.zeros((), device=ours[0].device)
        for i, own in enumerate(ours):
            for j, other in enumerate(theirs):
                own_map, other_map = same_resolution(as_map(own), as_map(other))
                distance = _difference(self.maps[i][j](own_map), other_map).square().flatten(1).mean(1)  # type: ignore[index]
                total = total + shares[:, i, j] * distance
        return total / len(ours)

    def shares(self, student: list[Tensor], target: list[Tensor]) -> Tensor:
        """The weights [B, student's layers, teacher's layers]; they sum to one over the last."""
        queries = [_unit(query(self._similarities(own))) for query, own in zip(self.queries, student, strict=True)]
        keys = [_unit(key(self._similarities(other))) for key, other in zip(self.keys, target, strict=True)]
        return at_least_fp32(torch.stack(queries, 1) @ torch.stack(keys, 1).mT).softmax(-1)

    def _similarities(self, x: Tensor) -> Tensor:
        """Products of all pairs of the batch, [B, batch_size]."""
        missing = self.batch_size - len(x)
        if missing < 0:
            raise StillhouseError(
                f"`by: semckd` was told batch_size {self.batch_size} and got a batch of {len(x)}: set it to "
                "train.batch_size, divided by the number of processes and by train.accumulate"
            )
        return functional.pad(_products(x, x), (0, missing))


class MaskedGeneration(nn.Module):
    """MGD: the teacher's features from the student's masked ones, Yang et al. 2022 (arXiv:2205.01529), eqs. 2 to 5.

    The student's map, through a 1 x 1 convolution where the widths differ, is set to zero at a random share `mask` of
    its positions (or channels, as the paper's code does for classification) and goes through 3 x 3 convolution, ReLU,
    3 x 3 convolution. The value is the sum of squared differences to the teacher's map; the paper weighs it 7e-5
    (classification) or 2e-5 (detection). The mask is drawn from torch's own generator, as dropout's is.
    """

    def __init__(self, student: Tensor, target: Tensor, *, mask: float = 0.5, over: str = "positions") -> None:
        super().__init__()
        ours, theirs = _width(student), _width(target)
        self.mask, self.over = mask, over
        self.align = nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1)
        self.generate = nn.Sequential(
            nn.Conv2d(theirs, theirs, 3, padding=1), nn.ReLU(), nn.Conv2d(theirs, theirs, 3, padding=1)
        )

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        ours, theirs = same_resolution(as_map(student), as_map(target.detach()))
        ours = self.align(ours)
        shape = (*ours.shape[:2], 1, 1) if self.over == "channels" else (len(ours), 1, *ours.shape[2:])
        kept = torch.rand(shape, device=ours.device) >= self.mask
        return _difference(self.generate(ours * kept), theirs).square().flatten(1).sum(1)


class CrossLayerAttention(nn.Module):
    """AFD: which layers to compare, by attention, Ji et al. 2021 (AAAI, arXiv:2102.02973), section 3.

    For each example and each layer t of the teacher, the weights of the student's layers s are a softmax over s of
    (q_t . W_t k_s + p_t . p_s) / sqrt(width): q_t and k_s (this one after a ReLU) are linear maps of the layers'
    channels averaged over positions, p learned positions. The value is the sum over t and s of the weight times the
    mean squared difference of the layers' attention maps: the mean of squares over the channels, the student's pooled
    to the teacher's resolution, divided by the 2-norm. The code's batch norm in q, k and W is left out.

    Args: one feature map or a list, of each side; any widths, resolutions and numbers of layers.
    """

    def __init__(self, student: Sides, target: Sides, *, width: int = 128) -> None:
        super().__init__()
        ours, theirs = many(student), many(target)
        self.width = width
        self.keys = nn.ModuleList(nn.Linear(_width(own), width) for own in ours)
        self.queries = nn.ModuleList(nn.Linear(_width(other), width) for other in theirs)
        self.bilinear = nn.Linear(width, len(theirs) * width, bias=False)
        self.key_positions = nn.Parameter(torch.randn(len(ours), width) / width**0.5)
        self.query_positions = nn.Parameter(torch.randn(len(theirs), width) / width**0.5)

    def forward(self, student: Sides, target: Sides) -> Tensor:
        ours, theirs = many(student), [other.detach() for other in many(target)]
        shares = self.shares(ours, theirs)
        total = torch.zeros((), device=ours[0].device)
        for s, own in enumerate(ours):
            for t, other in enumerate(theirs):
                one, two = both(as_map(own), as_map(other))
                distance = (_attention(one, two.shape[2:]) - _attention(two, two.shape[2:])).square().mean(1)
                total = total + shares[:, t, s] * distance
        return total

    def shares(self, student: list[Tensor], target: list[Tensor]) -> Tensor:
        """The weights [B, teacher's layers, student's layers]; they sum to one over the last."""
        keys = torch.stack([key(pooled(own)).relu() for key, own in zip(self.keys, student, strict=True)], 1)
        asked = self.bilinear(keys).unflatten(-1, (len(target), self.width))  # [B, s, t, width]
        queries = [query(pooled(other).to(keys.dtype)) for query, other in zip(self.queries, target, strict=True)]
        scores = (asked * torch.stack(queries, 1).unsqueeze(1)).sum(-1).mT
        return at_least_fp32((scores + self.query_positions @ self.key_positions.mT) / self.width**0.5).softmax(-1)


def as_map(x: Tensor) -> Tensor:
    """Vectors [B, D] as maps of one position; maps as they are. Raises StillhouseError for anything else."""
    if x.dim() == 2:
        return x[:, :, None, None]
    if x.dim() == 4:
        return x
    raise StillhouseError(
        f"this term takes feature maps [B, C, H, W] or vectors [B, D], and a tap gives {tuple(x.shape)}"
    )


def _width(x: Tensor) -> int:
    return as_map(x).shape[1]


def _listed(student: Sides, target: Sides) -> tuple[list[Tensor], list[Tensor]]:
    ours, theirs = many(student), many(target)
    if len(ours) != len(theirs):
        raise StillhouseError(f"{len(ours)} of the student's layers are held to {len(theirs)} of the teacher's")
    return ours, theirs


def _difference(ours: Tensor, theirs: Tensor) -> Tensor:
    ours, theirs = both(ours, theirs)
    return ours - theirs


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(x.flatten(1), dim=1)


def _attention(x: Tensor, size: torch.Size) -> Tensor:
    """AFD's map of where a layer is active, [B, H W]."""
    return _unit(functional.adaptive_avg_pool2d(x.square().mean(1), (size[0], size[1])))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return x if x.shape[2:] == like.shape[2:] else functional.interpolate(x, like.shape[2:], mode="nearest")


@full_precision
def _products(student: Tensor, target: Tensor) -> Tensor:
    ours, theirs = both(student, target)
    return ours.flatten(1) @ theirs.flatten(1).T


def _convolved(inside: int, outside: int) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.LeakyReLU(0.1)]


def _normed(inside: int, outside: int, size: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inside, outside, size, padding=size // 2, bias=False), nn.BatchNorm2d(outside))


def _connector(student: Tensor, target: Tensor) -> nn.Module:
    return _normed(_width(student), _width(target), 1)


def _embedding(student: Tensor, target: Tensor) -> nn.Module:
    """SemCKD's map between two layers."""
    wide = _width(target)
    return nn.Sequential(
        *_normed(_width(student), 2 * wide, 1).children(),  # type: ignore[misc]
        nn.ReLU(),
        *_normed(2 * wide, 2 * wide, 3).children(),
        nn.ReLU(),
        nn.Conv2d(2 * wide, wide, 1, bias=False),
    )
