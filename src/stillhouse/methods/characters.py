"""CCD: characters of a line are matched with themselves in another view of it, by a network and its own average.

Paper: Guan et al. 2023, "Self-supervised Character-to-Character Distillation for Text Recognition", arXiv:2211.00288,
    section 3.
Algorithm: for each batch of lines, the ink is told from the ground by two means, and split into characters where
    columns are blank; the second view moves, turns and stretches the line by a known map, and both views are inked
    anew; the map takes the characters' regions to their places in the second view; the network's maps are averaged
    over each region; the head gives scores over prototypes; step on the cross-entropy of the student's character in
    each view to the teacher's of the same character in the other one.
    With `slice` or `line` the regions are slices of one width (as SeqCLR's, Aberdam et al. 2021, arXiv:2012.10873), or
    everything, in the same places of both views.
Roles: student, whose average is the teacher and what is kept.
Deviations: the authors train a small network on the two means' mask and group its pixels by density; here the mask
    itself is used, and columns. Those of `methods.prototypes`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Losses
from stillhouse.errors import StillhouseError
from stillhouse.methods.prototype_kinds import Characters as Kind
from stillhouse.methods.prototypes import OverPrototypes, WithHead
from stillhouse.methods.roles import Roles
from stillhouse.sources.jitter import inked, maps
from stillhouse.sources.spatial import sampled

ROUNDS = 5
"""Of two means."""
INSIDE = 0.1
"""How much of a moved region a pixel is to have to be in it, as the authors'."""


class Characters(OverPrototypes):
    kind: Kind

    def __init__(self, kind: Kind, roles: Roles) -> None:
        seen = roles.look([kind.signal])[kind.signal]
        if seen.dim() != 4:
            raise StillhouseError(
                f"method.signal: 'characters' pools a map [B, D, H, W], and {kind.signal!r} has shape "
                f"{list(seen.shape)}; a convnet's is features.map"
            )
        super().__init__(kind, roles.student, seen.shape[1])

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        line = batch["image"]
        where = maps(self.kind.jitter, line.shape, rng)
        views = torch.cat([inked(view, self.kind.jitter, rng) for view in (line, sampled(line, where))])
        regions = self.regions(line, where)  # [2, B, T, H, W]
        there = regions.flatten(3).any(-1).all(0)  # [B, T]
        with torch.no_grad():
            told = self.scores(self.student.final, views, regions, there)
        targets = self.targets(told.flatten(0, 1)).view_as(told)
        own = self.scores(self.student.module, views, regions, there)
        return Losses(character=self.differ(own, targets.flip(0)))

    def regions(self, line: Tensor, where: Tensor) -> Tensor:
        """What is compared, in both views of lines [B, C, H, W]: bool [2, B, T, H, W]."""
        if self.kind.by == "character":
            found = characters(line, self.kind.most)
            return torch.stack([found, sampled(found.to(line.dtype), where) > INSIDE])
        count = self.kind.most if self.kind.by == "slice" else 1
        number = torch.arange(line.shape[3], device=line.device) * count // line.shape[3]  # [W]
        even = functional.one_hot(number, count).bool().T[:, None]  # [T, 1, W]
        return even.expand(2, len(line), count, *line.shape[2:])

    def scores(self, model: WithHead, views: Tensor, regions: Tensor, there: Tensor) -> Tensor:
        """The head's scores of the regions that are there, [2, M, K]."""
        seen = model.signals({"image": views}, [self.kind.signal])[self.kind.signal]
        vectors = pooled(seen, regions.flatten(0, 1)).unflatten(0, (2, -1))  # [2, B, T, D]
        return model.head(vectors[:, there])


def characters(line: Tensor, most: int) -> Tensor:
    """The ink of each of the first `most` characters of lines [B, C, H, W]: bool [B, most, H, W], none where there are
    fewer. Characters end where a column of pixels has no ink."""
    grey = line.mean(1)
    ink = grey > threshold(grey.flatten(1))[:, None, None]
    column = ink.any(1)  # [B, W]
    begins = column & ~functional.pad(column, (1, 0))[:, :-1]
    number = (begins.cumsum(1) * column)[:, None, None]  # [B, 1, 1, W]: 1 for the first, 0 between
    return ink[:, None] & (number == torch.arange(1, most + 1, device=line.device)[:, None, None])


def threshold(values: Tensor) -> Tensor:
    """What lies midway between the two means of each row's values [B, N]: [B] (Lloyd's algorithm)."""
    low, high = values.amin(1), values.amax(1)
    for _ in range(ROUNDS):
        upper = (values > ((low + high) / 2)[:, None]).to(values.dtype)
        high = (values * upper).sum(1) / upper.sum(1).clamp(min=1)
        low = (values * (1 - upper)).sum(1) / (1 - upper).sum(1).clamp(min=1)
    return (low + high) / 2


def pooled(seen: Tensor, regions: Tensor) -> Tensor:
    """The mean of maps [B, D, h, w] over each region, bool [B, T, H, W]: [B, T, D]; zero where it is empty."""
    height, width = seen.shape[2:]
    share = functional.adaptive_avg_pool2d(regions.to(seen.dtype), (height, width)).flatten(2)  # [B, T, h w]
    return share @ seen.flatten(2).mT / share.sum(2, keepdim=True).clamp(min=1e-6)
