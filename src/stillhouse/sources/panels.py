"""Two images side by side, of which some have a domain in common."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Data, Source
from stillhouse.errors import StillhouseError
from stillhouse.sources.altered import classified
from stillhouse.sources.altered_kinds import Panels
from stillhouse.sources.derived import Derived

CHUNK = 4096


class Pairs(Derived):
    """A `Source` of pairs from another one: the image of each row, and beside it that of `partners` [N]."""

    def __init__(self, source: Source, partners: Tensor, classes: int, *, words: str) -> None:
        super().__init__(source, words)
        self.partners, self.classes = partners, classes

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        """The first image's batch, with `image` [B, C, H, 2 W] and the pair's `labels` [B]."""
        first, second = self.source.fetch(indices, rng), self.source.fetch(self.partners[indices], rng)
        image = torch.cat([first["image"], second["image"]], -1)
        return first | {"image": image, "labels": first["labels"] * self.classes + second["labels"]}


def panels(kind: Panels) -> Data:
    """The data as pairs: see `Panels`. Raises StillhouseError for images without a domain, or of one class alone."""
    data = classified(kind)
    classes, shape, names = data.facts.classes, data.facts.shape, data.facts.names
    if len(shape) != 3:
        raise StillhouseError(f"only images stand side by side, and inputs are {shape}: data.kind=panels is not for it")

    def paired(number: int, source: Source) -> Pairs:
        rng = torch.Generator().manual_seed(3 * kind.seed + number)
        return Pairs(
            source, _partners(source, kind.consistent, rng), classes, words=repr(kind.model_dump(exclude={"of"}))
        )

    train, validation, test = (paired(n, split) for n, split in enumerate((data.train, data.validation, data.test)))
    facts = replace(
        data.facts,
        shape=(*shape[:2], 2 * shape[2]),
        classes=classes**2,
        names=tuple(f"{first} {second}" for first in names for second in names),
    )
    return Data(train, validation, test, facts)


def _partners(source: Source, consistent: float, rng: torch.Generator) -> Tensor:
    """For each row another one of another class, for a share of the rows one of the same domain as well: [N]."""
    found = [source.fetch(rows, None) for rows in torch.arange(len(source)).split(CHUNK)]
    if "domain" not in found[0]:
        raise StillhouseError(
            "data of kind 'panels' needs to know each image's domain: data of kind 'glyphs' with several 'fonts', or "
            "'domains'"
        )
    labels, domain = (torch.cat([batch[name] for batch in found]) for name in ("labels", "domain"))
    same = torch.rand(len(labels), generator=rng) < consistent
    partners = torch.empty_like(labels)
    for own, face, alike in torch.stack([labels, domain, same.long()], 1).unique(dim=0).tolist():
        rows = ((labels == own) & (domain == face) & (same == bool(alike))).nonzero().squeeze(1)
        others = (labels != own) & ((domain == face) if alike else torch.ones_like(same))
        choice = others.nonzero().squeeze(1)
        if not len(choice):
            raise StillhouseError(
                f"data of kind 'panels': no example of another class than {own} is of domain {face}: take more "
                "examples, or set 'consistent' to 0"
            )
        partners[rows] = choice[torch.randint(len(choice), (len(rows),), generator=rng)]
    return partners
