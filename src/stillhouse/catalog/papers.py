"""The papers: what each does, what it needs, and the smallest honest experiment that would show it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stillhouse.errors import StillhouseError, nearest

_FILE = Path(__file__).parent / "papers.jsonl"


@dataclass(frozen=True, slots=True)
class Paper:
    """One paper. In its texts, `~` marks a detail that was filled in and not read in the paper."""

    key: str
    """Its public name: lower-case words joined by '-'."""
    title: str
    kind: str
    """"method", "analysis", "application", "survey", "toolkit", "dataset", "benchmark" or "adjacent"."""
    family: str
    """The family it belongs to first."""
    also: tuple[str, ...]
    """Further families it touches."""
    modality: str
    mechanism: str
    """What is optimised, against which teacher, by which loss."""
    headline: str
    """The numbers it claims; "" where it claims none."""
    primitives: tuple[str, ...]
    """What an implementation needs."""
    proof: str
    """A small experiment that would show it; "" where there is none yet."""
    distinct: int
    """How much of its mechanism is its own, from 0 (none) to 3."""


@cache
def _by_key() -> dict[str, Paper]:
    found: dict[str, Paper] = {}
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        fields["also"], fields["primitives"] = tuple(fields["also"]), tuple(fields["primitives"])
        paper = Paper(**fields)
        assert paper.key not in found, f"two papers have the key {paper.key}"
        found[paper.key] = paper
    return found


def papers(*, family: str | None = None, kind: str | None = None) -> list[Paper]:
    """All papers, by family and key; or those of a family (first or further) and of a kind.

    Raises: StillhouseError for a family or a kind that there is not, with the nearest.
    """
    for word, known, what in ((family, families(), "family"), (kind, kinds(), "kind of paper")):
        if word is not None and word not in known:
            raise StillhouseError(f"no {what} is named {word!r}; {nearest(word, known)}")
    return [
        paper
        for paper in _by_key().values()
        if family in (None, paper.family, *paper.also) and kind in (None, paper.kind)
    ]


def paper(key: str) -> Paper:
    """The paper of that key.

    Raises: StillhouseError with the nearest key.
    """
    found = _by_key()
    if key not in found:
        clause = nearest(key, found) if len(key) <= 100 else ""
        hint = clause if clause.startswith("did you mean") else "`stillhouse list papers` names them all"
        raise StillhouseError(f"no paper has the key {key[:100]!r}; {hint}")
    return found[key]


def families() -> dict[str, int]:
    """The families that papers belong to first, and how many do."""
    return _count(paper.family for paper in _by_key().values())


def kinds() -> dict[str, int]:
    """The kinds of papers, and how many there are of each."""
    return _count(paper.kind for paper in _by_key().values())


def _count(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))
