"""The recipes that ship with the package, read just far enough to list them and to link them to papers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from stillhouse.errors import StillhouseError

FOLDER = Path(__file__).parents[1] / "recipes"
"""A folder a family, a YAML file a recipe."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Shipped:
    """A recipe file, not checked against the schema."""

    name: str
    about: str
    papers: tuple[str, ...]
    """Catalogue keys of the papers it shows."""
    family: str
    """The folder it lies in."""
    path: Path
    seeds: int
    """How many seeds its proof asks for; 0 where it has no proof."""
    fingerprint: str


def recipes() -> dict[str, Shipped]:
    """The shipped recipes by name."""
    return dict(_scan(FOLDER))


def read(path: Path) -> Shipped:
    """What a recipe file says of itself. The file must have passed the schema, or ship with the package."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise StillhouseError(f"{path} cannot be read as YAML 1.1: {error}") from error
    named = data.get("paper") or ()
    proof = data.get("proof") or {}
    return Shipped(
        name=data["name"],
        about=" ".join((data.get("about") or "").split()),
        papers=(named,) if isinstance(named, str) else tuple(named),
        family=path.parent.name,
        path=path,
        seeds=len(proof.get("seeds", (0, 1, 2))) if proof else 0,
        fingerprint=fingerprint(data),
    )


def fingerprint(data: Mapping[str, Any]) -> str:
    """A hash of what a recipe does: its values, without comments, layout, description and paper."""
    does = {key: value for key, value in data.items() if key not in ("about", "paper")}
    return hashlib.sha256(json.dumps(does, sort_keys=True, default=str).encode()).hexdigest()[:16]


@cache
def _scan(folder: Path) -> dict[str, Shipped]:
    found: dict[str, Shipped] = {}
    for path in sorted(folder.glob("*/*.yaml")):
        recipe = read(path)
        assert recipe.name == path.stem, f"{path} holds a recipe named {recipe.name}"
        assert recipe.name not in found, f"two shipped recipes are named {recipe.name}"
        found[recipe.name] = recipe
    return found
