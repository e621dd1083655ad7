"""From pydantic's errors to what a user can mend: file, line, key, what is wrong, the nearest valid word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from pydantic import ValidationError

from stillhouse.errors import nearest
from stillhouse.kinds import kinds
from stillhouse.recipe.document import Document
from stillhouse.recipe.problems import Path, Problem, dotted, shown
from stillhouse.recipe.slots import ROOT, Slot, child, keys_under, shape_of, slot_at

_PYDANTIC = re.compile(r"^\w+ (?=should )| after validation, not \w+$")
"""What pydantic says beside the point: 'List should have at least 1 item after validation, not 0'."""


@dataclass(frozen=True)
class _Spot:
    """Where an error of pydantic's lies: a path in the recipe, and the alternatives taken on the way."""

    path: Path
    slot: Slot | None
    taken: tuple[tuple[Path, Slot, Slot | None], ...]
    """For each union on the way: its path, the union, and the alternative that the error speaks of."""


def explain(error: ValidationError, document: Document) -> list[Problem]:
    """All problems of a recipe that does not validate, in the order of their lines."""
    found: dict[tuple[Path, str], Problem] = {}
    mismatched: dict[Path, Problem] = {}
    for details in error.errors(include_url=False):
        spot = _locate(details["loc"], document.data)
        if not _relevant(spot, document.data):
            continue
        union = next((u for path, u, _ in reversed(spot.taken) if path == spot.path), None)
        if union is not None and details["type"].endswith(("_type", "_parsing", "literal_error")):
            wrong = f"expected {union}, got {shown(_value(document.data, spot.path))}"
            mismatched[spot.path] = _problem(document, spot.path, wrong)
            continue
        for path, message in _messages(details, spot, document):
            found[path, message] = _problem(document, path, message)
    told = {path for path, _ in found}
    problems = [*found.values(), *(problem for path, problem in mismatched.items() if path not in told)]
    return sorted(problems, key=lambda problem: problem.line or 0)


def _problem(document: Document, path: Path, message: str) -> Problem:
    place = document.place(path)
    return Problem(place.file, place.line, dotted(path), message)


def _locate(loc: tuple[str | int, ...], data: Any) -> _Spot:
    """Take out of pydantic's location the names of alternatives that it mixes in with the keys."""
    slot: Slot | None = ROOT
    path: Path = ()
    taken: list[tuple[Path, Slot, Slot | None]] = []
    rest = list(loc)
    while rest:
        if slot and len(slot.members) > 1:
            label = str(rest.pop(0))
            member = next((m for m in slot.members if _is_called(m, label)), None)
            taken.append((path, slot, member))
            slot = member
            continue
        if slot and slot.members[0].choice:
            del rest[:2]  # "word" or "options", and the kind
            if not rest:
                break
        key = rest.pop(0)
        if key == "[key]":
            break
        slot = slot.step(key, data) if slot else None
        data = child(data, key)
        path += (key,)
    return _Spot(path, slot, tuple(taken))


def _is_called(member: Slot, label: str) -> bool:
    """Whether pydantic's name of an alternative is this one's; a validator's may stand around it."""
    own = _label(member).lower()
    return label.lower() == own or label.lower().endswith(f", {own}]")


def _label(member: Slot) -> str:
    """How pydantic names an alternative of a union."""
    name = getattr(member.type, "__name__", str(member.type))
    return f"{name}[{member.type.__args__[0].__name__}]" if member.shape is list else name


def _relevant(spot: _Spot, data: Any) -> bool:
    """Whether an error speaks of the alternative that the user has meant, judged by its shape."""
    for path, union, member in spot.taken:
        shape = shape_of(_value(data, path))
        meant = [m for m in union.members if m.shape is shape] if shape is not object else []
        if meant and member not in meant:
            return False
    return True


def _value(data: Any, path: Path) -> Any:
    for key in path:
        data = child(data, key)
    return data


def _messages(details: Any, spot: _Spot, document: Document) -> Iterator[tuple[Path, str]]:
    """The key to look at and what is wrong with it."""
    value = _value(document.data, spot.path)
    context = details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            yield spot.path, f"unknown key; {_known(spot, document)}"
        case "missing" if isinstance(spot.path[-1], int):
            holder = slot_at(spot.path[:-1], document.data)
            yield spot.path[:-1], f"expected {holder}, got {shown(_value(document.data, spot.path[:-1]))}"
        case "missing":
            *parent, name = spot.path
            yield tuple(parent), f"the key '{name}' is missing: {spot.slot or 'its value'}"
        case "union_tag_not_found":
            assert spot.slot is not None
            choice = spot.slot.members[0].choice
            assert choice is not None
            known = ", ".join(kinds(choice.family))
            yield spot.path, f"the key '{choice.tag}' is missing: which {choice.family}? known: {known}"
        case "union_tag_invalid":
            assert spot.slot is not None
            choice = spot.slot.members[0].choice
            assert choice is not None
            path = (*spot.path, choice.tag) if isinstance(value, dict) else spot.path
            word = child(value, choice.tag) if isinstance(value, dict) else value
            yield path, f"no {choice.family} is named {shown(word)}; {nearest(word, kinds(choice.family))}"
        case "literal_error":
            assert spot.slot is not None
            words = [word for member in spot.slot.members for word in getattr(member.type, "__args__", ())]
            yield spot.path, f"{shown(value)} is not a valid word here; {nearest(value, words)}"
        case "string_pattern_mismatch":
            yield spot.path, f"must match the pattern {context['pattern']}, got {shown(value)}"
        case "value_error" | "assertion_error":
            yield spot.path, details["msg"].removeprefix("Value error, ")
        case kind if kind.endswith(("_type", "_parsing")):
            yield spot.path, f"expected {spot.slot or 'another type'}, got {shown(value)}"
        case _:
            said = _PYDANTIC.sub("", details["msg"])
            yield spot.path, f"{said}, got {shown(value)}"


def _known(spot: _Spot, document: Document) -> str:
    """The nearest valid key: among its neighbours, or for an override anywhere in the recipe."""
    *parent, name = spot.path
    keys = list(keys_under(ROOT, document.data))
    prefix = "".join(f"{key}." for key in parent)
    known = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    elsewhere = _anywhere(spot.path, keys) if document.place(spot.path).override else None
    return f"did you mean {elsewhere!r}?" if elsewhere else nearest(name, [key for key in known if "." not in key])


def _anywhere(path: Path, keys: list[str]) -> str | None:
    """The key of the recipe with the nearest last word: the one closest by, if there are several."""

    def apart(key: str) -> tuple[int, int]:
        parts = zip(dotted(path).split("."), key.split("."), strict=False)
        return -sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], parts)), len(key)

    ends = {key.rpartition(".")[2]: key for key in sorted(keys, key=apart, reverse=True)}
    close = difflib.get_close_matches(str(path[-1])[:200], ends, n=1, cutoff=0.75)
    return ends[close[0]] if close else None
