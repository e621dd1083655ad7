"""The errors a user can cause. Each says what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class StillhouseError(Exception):
    """What a user can mend. `exit_code` is what the command leaves with."""

    exit_code = 2


class NothingToMeasure(StillhouseError):
    """The examples hold nothing, or too little, of what is measured; more of them may."""


class RunFailed(StillhouseError):
    """The input was right and the run failed all the same (a loss that is not finite, a full disk)."""

    exit_code = 3


class ProofFellShort(StillhouseError):
    """A proof ran to its end and an expectation did not hold."""

    exit_code = 4

    def __init__(self, message: str, evidence: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.evidence = evidence
        """What the proof measured (stillhouse.catalog.evidence.Evidence), already written."""


class Interrupted(StillhouseError):
    """The user stopped the run; its state is saved."""

    exit_code = 130


_LISTED, _CLOSEST = 20, 12
"""Up to so many words are all listed; of more, so many."""


def nearest(word: object, known: Iterable[str]) -> str:
    """A clause naming the nearest valid word, or all of them when none is near; of a great many, the closest.

    >>> nearest("tempreture", ["temperature", "weight"])
    "did you mean 'temperature'?"
    """
    words, given = sorted({str(k) for k in known}), str(word)[:200]
    near = difflib.get_close_matches(given, words, n=1, cutoff=0.75)
    if near:
        return f"did you mean {near[0]!r}?"
    if not words:
        return "nothing is known here"
    if len(words) <= _LISTED:
        return f"known: {', '.join(words)}"
    holding = [w for w in words if given and given in w]
    closest = difflib.get_close_matches(given, words, n=_CLOSEST, cutoff=0.0)
    listed = list(dict.fromkeys([*holding, *closest]))[:_CLOSEST]
    return f"closest: {', '.join(listed)} and {len(words) - len(listed)} more"
