"""A recipe as the Python program that does the same: the objects it stands for, composed by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from stillhouse.kinds import PLUGIN, Kind
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.values import plain, written

_WIDTH = 100


def python_program(recipe: Recipe) -> str:
    """Python text that builds an equal `recipe` and, run as a program, distils it.

    Options with their default value are left out. Kinds of a plug-in file are written as dicts, and
    the program loads the plug-in first.
    """
    classes = sorted(
        {type(model) for model in _models(recipe)} - {Recipe}, key=lambda cls: (cls.__module__, cls.__name__)
    )
    modules: dict[str, list[str]] = {}
    for cls in classes:
        if not cls.__module__.startswith(PLUGIN):
            modules.setdefault(cls.__module__, []).append(cls.__name__)
    files = sorted({_plugin_file(cls) for cls in classes if cls.__module__.startswith(PLUGIN)})
    lines = ["from stillhouse import Recipe, distill"]
    if files:
        lines.append("from stillhouse.kinds import load_plugin")
    lines += [f"from {module} import {', '.join(names)}" for module, names in modules.items()]
    lines += ["", *(f"load_plugin({file!r})" for file in files), *([""] if files else [])]
    lines += [f"recipe = {_code(recipe, 0, len('recipe = '))}", ""]
    lines += ['if __name__ == "__main__":', "    run = distill(recipe)", "    print(run.table())", ""]
    return "\n".join(lines)


def _models(value: Any) -> Iterator[BaseModel]:
    """Every model that the program writes as a constructor call."""
    if isinstance(value, BaseModel):
        yield value
        for _, item in written(value):
            yield from _models(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _models(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _models(item)


def _plugin_file(cls: type[BaseModel]) -> str:
    return str(sys.modules[cls.__module__].__file__)


def _code(value: Any, indent: int, before: int = 0) -> str:
    """The value as Python, in one line where `indent`, what stands `before` it and itself fit the width."""
    if isinstance(value, BaseModel) and type(value).__module__.startswith(PLUGIN):
        value = plain(value)
    opening, items, closing = _parts(value)
    if not opening:
        return json.dumps(value, ensure_ascii=False) if isinstance(value, str) and value.isprintable() else repr(value)
    flat = opening + ", ".join(name + _code(item, 0, -_WIDTH * 100) for name, item in items) + closing
    if opening == "(" and len(items) == 1:
        flat = flat[:-1] + ",)"
    if indent + before + len(flat) < _WIDTH or not items:
        return flat
    inside = " " * (indent + 4)
    rows = [f"{inside}{name}{_code(item, indent + 4, len(name) + 1)},\n" for name, item in items]
    return f"{opening}\n{''.join(rows)}{' ' * indent}{closing}"


def _parts(value: Any) -> tuple[str, list[tuple[str, Any]], str]:
    """How a compound value is written: what opens it, its named items, what closes it."""
    match value:
        case BaseModel():
            tag = value.tag if isinstance(value, Kind) else ""
            return f"{type(value).__name__}(", [(f"{n}=", item) for n, item in written(value) if n != tag], ")"
        case dict():
            return "{", [(f"{_code(key, 0)}: ", item) for key, item in value.items()], "}"
        case list():
            return "[", [("", item) for item in value], "]"
        case tuple():
            return "(", [("", item) for item in value], ")"
    return "", [], ""
