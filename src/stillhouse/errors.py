"""The errors a user can cause. Each says what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class StillhouseError(Exception):
    """What a user can mend. `exit_code` is what the command leaves with."""

    exit_code = 2


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


def nearest(word: object, known: Iterable[str]) -> str:
    """A clause naming the nearest valid word, or all of them when none is near.

    >>> nearest("tempreture", ["temperature", "weight"])
    "did you mean 'temperature'?"
    """
    words = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(word)[:200], words, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(words)}" if words else "nothing is known here"
