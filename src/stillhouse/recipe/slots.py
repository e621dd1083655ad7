"""What the schema allows at each place of a recipe: for error messages, overrides and `stillhouse show`."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stillhouse.kinds import AnyKind, Kind, kinds
from stillhouse.recipe.problems import Path
from stillhouse.recipe.schema import Recipe

_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Slot:
    """The declared type at one place, without its `Annotated` wrapping."""

    type: Any
    metadata: tuple[Any, ...] = ()
    default: Any = None
    """What stands there when nothing is written: a set of options, or None."""

    @classmethod
    def of(cls, annotation: Any, metadata: tuple[Any, ...] = (), default: Any = None) -> Slot:
        while get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata = (*metadata, *more)
        bounds = tuple(bound for item in metadata if isinstance(item, FieldInfo) for bound in item.metadata)
        return cls(annotation, metadata + bounds, default if isinstance(default, BaseModel) else None)

    @property
    def choice(self) -> AnyKind | None:
        """The family of kinds that fit here, if it is one."""
        return next((item for item in self.metadata if isinstance(item, AnyKind)), None)

    @property
    def members(self) -> list[Slot]:
        """The alternatives of a union, None aside; the slot itself where there is one only."""
        if get_origin(self.type) not in (Union, types.UnionType):
            return [self]
        found = [Slot.of(member, default=self.default) for member in get_args(self.type) if member is not type(None)]
        return found if len(found) > 1 else found[0].members

    @property
    def shape(self) -> type:
        """`dict`, `list` or `object` (a scalar): what is written here."""
        if self.choice or (isinstance(self.type, type) and issubclass(self.type, BaseModel)):
            return dict
        origin = get_origin(self.type) or self.type
        return dict if origin is dict else list if origin in (list, tuple) else object

    def model(self, value: Any) -> type[BaseModel] | None:
        """The set of options that a value written here fills in; None where its kind is unknown."""
        if self.choice:
            word = value.get(self.choice.tag) if isinstance(value, dict) else value
            return kinds(self.choice.family).get(word) if isinstance(word, str) else None
        return self.type if isinstance(self.type, type) and issubclass(self.type, BaseModel) else None

    def fits(self, value: Any) -> bool:
        """Whether a value has the shape of what is written here."""
        return self.shape is shape_of(value) or (self.choice is not None and isinstance(value, str))

    def step(self, key: str | int, value: Any) -> Slot | None:
        """What the schema allows under a key of the value written here; None where it knows no such key."""
        for member in self.members:
            if not member.fits(value):
                continue
            model = member.model(value)
            if model is not None:
                field = model.model_fields.get(str(key))
                return field_slot(field) if field else None
            arguments = get_args(member.type)
            if member.shape is dict and arguments:
                return Slot.of(arguments[1])
            if member.shape is list and arguments:
                at = int(key) if isinstance(key, int) and arguments[-1] is not Ellipsis else 0
                return Slot.of(arguments[min(at, len(arguments) - 1)])
        return None

    def __str__(self) -> str:
        """In words, for a message: "a number > 0"."""
        return " or ".join(dict.fromkeys(member._words() for member in self.members))

    def _words(self) -> str:
        if self.choice:
            names = ", ".join(kinds(self.choice.family))
            return f"{_article(self.choice.family)} kind ({names})"
        origin, arguments = get_origin(self.type), get_args(self.type)
        if origin is Literal:
            return " or ".join(repr(argument) for argument in arguments)
        if origin is tuple and Ellipsis not in arguments:
            return f"a list of {len(arguments)} ({', '.join(str(Slot.of(a)) for a in arguments)})"
        if origin in (list, tuple):
            return f"a list, each {Slot.of(arguments[0])}"
        if self.shape is dict:
            model = self.model({})
            return f"a mapping ({', '.join(model.model_fields)})" if model else "a mapping"
        return " ".join([_WORDS.get(self.type, "a value"), *self._bounds()])

    def _bounds(self) -> Iterator[str]:
        signs = [
            f"{sign} {getattr(m, name)}" for name, sign in _BOUNDS.items() for m in self.metadata if hasattr(m, name)
        ]
        if signs:
            yield " and ".join(signs)


def field_slot(field: FieldInfo) -> Slot:
    """The slot of a model's field."""
    return Slot.of(field.annotation, tuple(field.metadata), field.get_default())


ROOT = Slot(Recipe)


def slot_at(path: Path, data: Any) -> Slot | None:
    """What the schema allows at a path of a recipe; None where it knows no such place."""
    slot: Slot | None = ROOT
    for key in path:
        slot = slot.step(key, data) if slot else None
        data = child(data, key)
    return slot


def child(data: Any, key: str | int) -> Any:
    """The value under a key; None where there is none."""
    if isinstance(data, dict):
        return data.get(key)
    return data[key] if isinstance(data, list) and isinstance(key, int) and 0 <= key < len(data) else None


def shape_of(value: Any) -> type:
    """`dict`, `list` or `object` (a scalar)."""
    return dict if isinstance(value, dict) else list if isinstance(value, list | tuple) else object


def keys_under(slot: Slot, value: Any, prefix: str = "") -> Iterator[str]:
    """Every key that may be written under a value, dotted: what an override may name."""
    for member in slot.members:
        model = member.model(value) if member.fits(value) else None
        if model is None and shape_of(value) is not object:
            for key, item in enumerate(value) if isinstance(value, list) else value.items():
                below = member.step(key, value)
                if below:
                    yield from keys_under(below, item, f"{prefix}{key}.")
        for name, field in model.model_fields.items() if model else ():
            yield prefix + name
            below = field_slot(field)
            inner = child(value, name)
            if inner is None and isinstance(below.default, Kind):
                inner = {below.default.tag: below.default.word}
            if inner is not None:
                yield from keys_under(below, inner, f"{prefix}{name}.")


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"
