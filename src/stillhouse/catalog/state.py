"""How far a recipe, or a paper, is shown to work. Derived on every call, never typed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stillhouse.catalog import evidence, shipped
from stillhouse.catalog.evidence import Evidence
from stillhouse.catalog.shipped import Shipped

Word = Literal["no recipe", "recipe", "fell short", "proved"]
WORDS: tuple[Word, ...] = ("no recipe", "recipe", "fell short", "proved")
"""From the least shown to the most."""


@dataclass(frozen=True, slots=True)
class State:
    """A word, what stands behind it, and a line saying why."""

    word: Word
    note: str = ""
    recipe: str = ""
    evidence: Evidence | None = None


def recipe_state(recipe: Shipped) -> State:
    """ "proved" or "fell short" by evidence that fits the recipe as it stands, else "recipe" and what is missing."""
    found = evidence.find(recipe.name)
    if found is None:
        return State("recipe", "not proved yet" if recipe.seeds else "has no proof", recipe.name)
    what = f"{found.verdict} on {found.date} by version {found.version}"
    if found.overrides:
        note = f"{what}, but with {' '.join(found.overrides)}"
    elif found.fingerprint != recipe.fingerprint:
        note = f"{what}, but the recipe has changed since"
    elif len(found.seeds) < recipe.seeds:
        note = f"{what}, but on {len(found.seeds)} of {recipe.seeds} seeds"
    else:
        seeds = ", ".join(map(str, found.seeds))
        return State(
            "proved" if found.verdict == "proved" else "fell short", f"{what}, seeds {seeds}", recipe.name, found
        )
    return State("recipe", note, recipe.name, found)


def paper_states(key: str) -> list[State]:
    """The state of every shipped recipe that names the paper, the furthest first."""
    states = [recipe_state(recipe) for recipe in shipped.recipes().values() if key in recipe.papers]
    return sorted(states, key=lambda state: -WORDS.index(state.word))


def paper_state(key: str) -> State:
    """The furthest that any recipe has brought the paper."""
    return next(iter(paper_states(key)), State("no recipe"))
