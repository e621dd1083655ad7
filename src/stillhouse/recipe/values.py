"""Recipe objects as plain data: what YAML and JSON can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stillhouse.errors import StillhouseError
from stillhouse.kinds import Kind

_DEEPEST = 60


def plain(value: Any, *, defaults: bool = False) -> Any:
    """A recipe, or any part of it, as dicts, lists and scalars.

    Args:
        value: a model, or data that may hold models.
        defaults: keep the options that have their default value.

    Raises:
        StillhouseError: something in it is no recipe data, or is nested without end.
    """
    return _plain(value, defaults, _DEEPEST)


def _plain(value: Any, defaults: bool, depth: int) -> Any:
    if depth == 0:
        raise StillhouseError(f"this recipe is nested deeper than {_DEEPEST} levels")
    match value:
        case BaseModel():
            return {name: _plain(item, defaults, depth - 1) for name, item in written(value, defaults=defaults)}
        case Mapping():
            return {str(key): _plain(item, defaults, depth - 1) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, defaults, depth - 1) for item in value]
        case Path():
            return str(value)
        case None | bool() | int() | float() | str():
            return value
    raise StillhouseError(f"a recipe holds text, numbers, lists and mappings; a {type(value).__name__} is none of them")


def written(model: BaseModel, *, defaults: bool = False) -> Iterator[tuple[str, Any]]:
    """The options to write down, the kind first: those that differ from their default, or all that are not None."""
    tag = model.tag if isinstance(model, Kind) else ""
    if tag:
        yield tag, getattr(model, tag)
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        same = not field.is_required() and value == field.get_default(call_default_factory=True)
        if name != tag and not (same and (value is None or not defaults)):
            yield name, value
