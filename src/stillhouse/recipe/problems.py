"""What is wrong with a recipe: every problem at once, each with its file, line and key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stillhouse.errors import StillhouseError

Path = tuple[str | int, ...]
"""Where a value stands in a recipe: mapping keys and list positions, from the top."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written: a file and a line (from 1), or an override on the command line."""

    file: str
    line: int | None = None
    override: bool = False

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend."""

    file: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        place = str(Place(self.file, self.line))
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class RecipeError(StillhouseError):
    """A recipe that cannot be read. `problems` holds all that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def dotted(path: Path) -> str:
    """The path as an override would write it: `method.terms.0.weight`."""
    return ".".join(shorten(str(part), 64) for part in path)


def shorten(text: str, limit: int = 80) -> str:
    """The text in one printable line of at most `limit` characters."""
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 3] + "..."


def shown(value: Any) -> str:
    """A value as a message quotes it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return repr(shorten(value, 60))
        case dict():
            return f"a mapping ({shorten(', '.join(str(key) for key in list(value)[:8]), 60)})" if value else "{}"
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case _:
            return shorten(repr(value), 60)
