"""What a proof measured, as JSON: `evidence/<recipe>.json`, one file a recipe.

A recipe is what was run, and it names the papers that it shows; a paper shown by two recipes has two
files of evidence. In a source checkout they lie in `evidence/` beside `src/`; a wheel carries them
inside the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stillhouse.engine.folder import read_json, write_json
from stillhouse.errors import StillhouseError

_PACKAGE = Path(__file__).parents[1]
_CHECKOUT = _PACKAGE.parents[1]
"""The source checkout, where the package lies in one."""

Arms = Mapping[str, Mapping[str, float | None]]
"""Metrics by arm, then by name; None where a number was not finite."""


@dataclass(frozen=True, slots=True)
class SeedRun:
    """What one seed measured."""

    seed: int
    seconds: float
    """Wall-clock time of the run."""
    arms: Arms


@dataclass(frozen=True, slots=True)
class Finding:
    """One expectation, judged over all seeds."""

    text: str
    holds: bool
    left: float | None
    """Mean of the left side over the seeds; None where a seed has no number for it."""
    right: float | None
    margin: float | None
    """Mean over the seeds of how far the sides differ in the expected direction."""
    se: float | None
    """Standard error of the paired differences; None for a single seed."""
    why: str
    """The comparison in numbers, or what stood in its way."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The outcome of one proof."""

    recipe: str
    papers: tuple[str, ...]
    fingerprint: str
    """Of the recipe that ran (stillhouse.catalog.shipped.fingerprint)."""
    overrides: tuple[str, ...]
    """What the command line changed in the recipe; such a run does not prove the recipe as it stands."""
    version: str
    """Of Stillhouse."""
    code: str
    """A hash of the source files that ran."""
    date: str
    """The day it ended, in UTC, as 2026-01-31."""
    seeds: tuple[int, ...]
    runs: tuple[SeedRun, ...]
    expectations: tuple[Finding, ...]
    environment: Mapping[str, Any]
    """Python, torch, processor, threads."""
    command: str
    """What runs it again."""

    @property
    def verdict(self) -> str:
        """ "proved" where every expectation holds, else "fell short"."""
        return "proved" if all(finding.holds for finding in self.expectations) else "fell short"

    @property
    def seconds(self) -> float:
        """Wall-clock time of all seeds."""
        return sum(run.seconds for run in self.runs)

    def write(self, folder: Path) -> Path:
        """Write `<recipe>.json` into the folder; a reader never sees half a file."""
        path = folder / f"{self.recipe}.json"
        write_json(path, {"verdict": self.verdict, **asdict(self)})
        return path


def read(path: Path) -> Evidence:
    """The evidence in a file.

    Raises: StillhouseError where the file is not what `write` leaves, or its verdict is not its findings'.
    """
    try:
        data = read_json(path)
        said = data.pop("verdict")
        data["runs"] = tuple(SeedRun(**run) for run in data["runs"])
        data["expectations"] = tuple(Finding(**finding) for finding in data["expectations"])
        for name in ("papers", "overrides", "seeds"):
            data[name] = tuple(data[name])
        evidence = Evidence(**data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StillhouseError(f"{path} is not evidence of a proof ({error}); remove it or prove it again") from error
    if not evidence.runs or said != evidence.verdict or tuple(run.seed for run in evidence.runs) != evidence.seeds:
        raise StillhouseError(f"{path} contradicts itself: prove it again with `{evidence.command}`")
    return evidence


def home() -> Path:
    """Where `stillhouse prove` writes: `evidence/` of the working folder."""
    return Path.cwd() / "evidence"


def find(recipe: str) -> Evidence | None:
    """The evidence for a recipe: the working folder's, or else what ships; None where there is none."""
    for folder in (home(), _CHECKOUT / "evidence", _PACKAGE / "evidence"):
        path = folder / f"{recipe}.json"
        if path.is_file():
            return read(path)
    return None
