"""Data with other rows or other labels than the data it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stillhouse.engine.contracts import IGNORED, Batch, Data, Source
from stillhouse.errors import StillhouseError
from stillhouse.sources.altered_kinds import (
    AlteredKind,
    Fewer,
    Grouped,
    LongTailed,
    NoisyLabels,
    OnlyClasses,
    PartlyLabelled,
)
from stillhouse.sources.derived import Derived
from stillhouse.sources.splits import some_of_each

CHUNK = 4096


class Altered(Derived):
    """A `Source` over some rows of another, with labels of its own.

    Args:
        source: the other.
        rows: [n] its rows that are served, in order.
        labels: [n] int64, in place of its own.
        words: what tells this alteration from others, for the fingerprint.
    """

    def __init__(self, source: Source, rows: Tensor, labels: Tensor, *, words: str) -> None:
        super().__init__(source, words)
        self.rows, self.labels = rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        """The other source's batch of these rows, with this one's `index` and `labels`."""
        return self.source.fetch(self.rows[indices], rng) | {"index": indices, "labels": self.labels[indices]}


def long_tailed(kind: LongTailed) -> Data:
    """The data with a long-tailed training split: every class keeps one example at least."""

    def kept(labels: Tensor, classes: int) -> Tensor:
        counts = torch.bincount(labels, minlength=classes)
        shares = kind.ratio ** (-torch.arange(classes, dtype=torch.float64) / max(classes - 1, 1))
        wanted = (counts[0] * shares).round().long().clamp(min=1)
        return _firsts(labels, wanted)

    return _fewer_rows(kind, kept, kind.of.build())


def only_classes(kind: OnlyClasses) -> Data:
    """The data with training examples of some classes alone. Raises StillhouseError for a class there is not."""

    def kept(labels: Tensor, classes: int) -> Tensor:
        _require_classes(kind.classes, classes)
        return torch.isin(labels, torch.tensor(kind.classes)).nonzero().squeeze(1)

    return _fewer_rows(kind, kept, kind.of.build())


def fewer(kind: Fewer) -> Data:
    """The data with at most `kind.limit` training examples."""

    def kept(labels: Tensor, classes: int) -> Tensor:
        return _some(labels, kind.limit, kind.seed)

    data: Data = kind.of.build()
    return _any_fewer(data, kind) if data.facts.task in ("tagging", "multi-label") else _fewer_rows(kind, kept, data)


def grouped(kind: Grouped) -> Data:
    """The data with classes put together. Raises StillhouseError for a class there is not, or one in two groups."""
    data = classified(kind)
    named = [c for group in kind.groups for c in group]
    _require_classes(named, data.facts.classes)
    if len(set(named)) < len(named):
        raise StillhouseError("data.groups names a class twice: each belongs to one group")
    place = torch.full((data.facts.classes,), IGNORED)
    for number, group in enumerate(kind.groups):
        place[group] = number

    def altered(source: Source) -> Altered:
        labels = place[labels_of(source)]
        rows = (labels != IGNORED).nonzero().squeeze(1)
        return Altered(source, rows, labels[rows], words=repr(kind.groups))

    own = data.facts.names
    names = tuple("+".join(own[c] for c in group) for group in kind.groups) if own else ()
    facts = replace(data.facts, classes=len(kind.groups), names=names)
    return Data(altered(data.train), altered(data.validation), altered(data.test), facts)


def noisy_labels(kind: NoisyLabels) -> Data:
    """The data with wrong training labels: a share of them, each another class than its own."""

    def noisy(labels: Tensor, classes: int) -> Tensor:
        rng = torch.Generator().manual_seed(kind.seed)
        wrong = torch.randperm(len(labels), generator=rng)[: round(kind.share * len(labels))]
        changed = labels.clone()
        changed[wrong] = (labels[wrong] + torch.randint(1, classes, (len(wrong),), generator=rng)) % classes
        return changed

    return _other_labels(kind, noisy)


def partly_labelled(kind: PartlyLabelled) -> Data:
    """The data with all but some training labels set to -100."""

    def withheld(labels: Tensor, classes: int) -> Tensor:
        shown = _some(labels, kind.labels, kind.seed)
        changed = torch.full_like(labels, IGNORED)
        changed[shown] = labels[shown]
        return changed

    return _other_labels(kind, withheld)


def labels_of(source: Source) -> Tensor:
    """The class indices of a whole source, [N]. Raises StillhouseError where it has none."""
    found = []
    for rows in torch.arange(len(source)).split(CHUNK):
        labels = source.fetch(rows, None).get("labels")
        if labels is None or labels.dim() != 1 or labels.is_floating_point():
            raise StillhouseError("only data with one class an example can be altered by its labels")
        found.append(labels)
    return torch.cat(found)


def classified(kind: AlteredKind) -> Data:
    """The data that is altered. Raises StillhouseError where it is no classification."""
    data: Data = kind.of.build()
    _require_classification(kind, data)
    return data


def _require_classification(kind: AlteredKind, data: Data) -> None:
    if data.facts.task != "classification":
        raise StillhouseError(f"data of kind {kind.word!r} is made of classified examples, not of {data.facts.task}")


def _fewer_rows(kind: AlteredKind, kept: Callable[[Tensor, int], Tensor], data: Data) -> Data:
    _require_classification(kind, data)
    labels = labels_of(data.train)
    rows = kept(labels, data.facts.classes)
    if not len(rows):
        raise StillhouseError(f"data of kind {kind.word!r} keeps no training example")
    return replace(data, train=Altered(data.train, rows, labels[rows], words=_words(kind)))


def _any_fewer(data: Data, kind: Fewer) -> Data:
    """A text has a class at each token, an image may have several: which ones are kept is drawn evenly."""
    rng = torch.Generator().manual_seed(kind.seed)
    rows = torch.randperm(len(data.train), generator=rng)[: kind.limit].sort().values
    labels = data.train.fetch(rows, None)["labels"]
    return replace(data, train=Altered(data.train, rows, labels, words=_words(kind)))


def _other_labels(kind: AlteredKind, change: Callable[[Tensor, int], Tensor]) -> Data:
    data = classified(kind)
    labels = change(labels_of(data.train), data.facts.classes)
    return replace(data, train=Altered(data.train, torch.arange(len(labels)), labels, words=_words(kind)))


def _words(kind: AlteredKind) -> str:
    own: dict[str, Any] = kind.model_dump(exclude={"of"})
    return repr(own)


def _firsts(labels: Tensor, wanted: Tensor) -> Tensor:
    """The rows of the first `wanted[c]` examples of each class c, ascending."""
    rows = [(labels == c).nonzero().squeeze(1)[: int(count)] for c, count in enumerate(wanted)]
    return torch.cat(rows).sort().values


def _some(labels: Tensor, count: int, seed: int) -> Tensor:
    """`count` rows, of each class its share; all where there are not more."""
    present = len(labels.unique())
    if count < present:
        raise StillhouseError(f"{count} examples are too few for {present} classes: one of each at least")
    return torch.arange(len(labels)) if count >= len(labels) else some_of_each(labels, count, seed=seed)


def _require_classes(named: Sequence[int], classes: int) -> None:
    unknown = sorted({c for c in named if c >= classes})
    if unknown:
        raise StillhouseError(f"there is no class {', '.join(map(str, unknown))}: classes are 0 to {classes - 1}")
