"""Overrides on the command line: `train.lr=2e-3`, `method.terms.0.weight=0.5`, `student.network=resnet`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stillhouse.engine.settings import Train
from stillhouse.recipe.document import MAX_DEPTH, Document, parse
from stillhouse.recipe.problems import Path, Place, Problem, RecipeError, dotted, shorten, shown
from stillhouse.recipe.slots import child, slot_at
from stillhouse.recipe.values import plain

_LENGTHS = {"steps": "epochs", "epochs": "steps"}


def override(document: Document, changes: Iterable[str]) -> None:
    """Change a document in place, each change `key.path=value` with the value in YAML.

    What a recipe leaves out and the schema fills in may be changed too; a plain word that stands for
    a kind is spelled out first. Giving `train.steps` drops the recipe's `train.epochs`, and the other
    way round.

    Raises:
        RecipeError: a change is not `key=value`, its value is not YAML, or its path leads through a
            value that has no parts. An unknown key is found when the recipe is validated.
    """
    for change in changes:
        _Change(document, change).apply()


class _Change:
    def __init__(self, document: Document, text: str) -> None:
        key, equals, value = text.partition("=")
        self.document, self.data = document, document.data
        self.place = Place(f"override {shorten(text, 60)}", override=True)
        self.parts = key.strip().split(".")
        if not equals or not all(self.parts):
            raise self.refused((), "an override is written key.path=value")
        if len(self.parts) > MAX_DEPTH:
            raise self.refused((), f"the key has more than {MAX_DEPTH} parts")
        self.value = parse(value, self.place.file)

    def refused(self, path: Path, what: str) -> RecipeError:
        return RecipeError([Problem(self.place.file, None, dotted(path), what)])

    def apply(self) -> None:
        path: Path = ()
        holder: Any = self.data
        for at, part in enumerate(self.parts):
            if not isinstance(holder, dict | list):
                raise self.refused(path, f"holds {shown(holder)}, which has no part {shorten(part, 40)!r}")
            key: Any = self._index(holder, part, path) if isinstance(holder, list) else part
            if at == len(self.parts) - 1:
                self._put(holder, key, path)
                return
            holder[key] = self._opened(child(holder, key), (*path, key))
            self.document.places.setdefault((*path, key), self.place)
            holder, path = holder[key], (*path, key)

    def _index(self, holder: list[Any], part: str, path: Path) -> int:
        if not (part.isascii() and part.isdigit() and len(part) < 6 and int(part) < len(holder)):
            raise self.refused(
                path, f"is a list of {len(holder)}; {shorten(part, 40)!r} is none of its positions from 0"
            )
        return int(part)

    def _opened(self, value: Any, path: Path) -> Any:
        """The value with its parts to be reached: a word spelled out, a default filled in."""
        slot = slot_at(path, self.data)
        if isinstance(value, str) and slot:
            choice = slot.members[0].choice
            return {choice.tag: value} if choice else value
        if value is None:
            return plain(slot.default) if slot and slot.default is not None else {}
        return value

    def _put(self, holder: Any, key: str | int, path: Path) -> None:
        holder[key] = self.value.data
        places = self.document.places
        here = (*path, key)
        for old in [p for p in places if p[: len(here)] == here]:
            del places[old]
        places.update({here + below: self.place for below in self.value.places})
        other = _LENGTHS.get(str(key))
        if other is None or other not in holder or self.document.place((*path, other)).override:
            return
        slot = slot_at(path, self.data)
        model = slot.members[0].model(holder) if slot else None
        if model and issubclass(model, Train):
            del holder[other]
