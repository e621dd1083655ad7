"""Recipes as text: from a shipped name, a file, YAML or a dict to a `Recipe`, and back.

    recipe = load("kd-digits", ["train.epochs=5", "seed=1"])
    print(dump(recipe))

Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import to_json

from stillhouse.catalog.shipped import recipes
from stillhouse.errors import StillhouseError, nearest
from stillhouse.kinds import load_entry_points, load_plugin
from stillhouse.recipe.choices import SearchSpec
from stillhouse.recipe.document import MAX_BYTES, Document, parse, plain_scalar
from stillhouse.recipe.explain import explain
from stillhouse.recipe.overrides import override
from stillhouse.recipe.problems import Problem, RecipeError, dotted, shorten, shown
from stillhouse.recipe.program import python_program
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.values import plain

__all__ = ["RecipeError", "dump", "load", "python_program", "read", "validate"]


def load(
    source: str | Path | Mapping[str, Any] | Recipe,
    overrides: Iterable[str] = (),
    plugins: Iterable[str | Path] = (),
) -> Recipe:
    """A recipe from a shipped name, the path of a file, YAML text, a dict, or another recipe.

    Args:
        source: a `str` is YAML if it holds a line break or ": ", a path if it ends in .yaml or .yml or
            names a file, and else a shipped name.
        overrides: changes such as "train.optimizer.lr=1e-3", later ones over earlier ones.
        plugins: Python files that register kinds. They run: name only what you trust.

    Raises:
        RecipeError: with all `problems` of the recipe, each with its file, line and key.
        StillhouseError: there is no such recipe, or a plug-in is missing or fails.
    """
    load_entry_points()
    for plugin in plugins:
        load_plugin(plugin)
    document = read(source)
    if not isinstance(document.data, dict):
        problem = f"a recipe is a mapping of keys to values; this is {shown(document.data)}"
        raise RecipeError([Problem(document.file, 1, "", problem)])
    override(document, overrides)
    recipe = validate(document)
    if recipe.search is not None:
        _all_fit(recipe.search, document)
    return recipe


def read(source: str | Path | Mapping[str, Any] | Recipe) -> Document:
    """The plain data of a recipe, not yet validated, and where each of its values was written."""
    if isinstance(source, Mapping | Recipe):
        return Document(plain(source), "recipe")
    if isinstance(source, str) and ("\n" in source or ": " in source):
        return parse(source, "recipe")
    path = _file(source)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        return parse(content.decode("utf-8-sig"), str(source) if path == Path(source) else path.name)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError([Problem(str(path), line, "", "not UTF-8 text; save the recipe as UTF-8")]) from None
    except OSError as error:
        raise StillhouseError(f"{path} cannot be read: {error.strerror}") from error


def validate(document: Document) -> Recipe:
    """Check a document against the schema, all of it at once.

    Types are taken as they are written: "5" and true are no numbers, and yes is no true.
    """
    try:
        return Recipe.model_validate_json(to_json(document.data, inf_nan_mode="constants"), strict=True)
    except ValidationError as error:
        raise RecipeError(explain(error, document)) from None


def _all_fit(search: SearchSpec, document: Document) -> None:
    """Raise RecipeError for every choice of a search, and every other setting of it, that the schema refuses."""
    common = [written(*item) for item in search.overrides.items()]
    variants: list[tuple[tuple[str, ...], list[str]]] = [(("search", "overrides"), ["search=null", *common])]
    for key, values in search.ends.items():
        where = ("search", "choices", key)
        variants += [(where, ["search=null", *common, written(key, value)]) for value in values]
    for name, sets in search.arms.items():
        variants.append((("search", "arms", name), [written(*item) for item in sets.items()]))
    problems: dict[str, Problem] = {}
    for path, changes in variants:
        changed = Document(deepcopy(document.data), document.file, dict(document.places))
        try:
            override(changed, ["proof=null", *changes])
            validate(changed)
        except RecipeError as error:
            place = document.place(path)
            for problem in error.problems:
                told = f"{problem.key}: {problem.message}" if problem.key else problem.message
                problems.setdefault(told, Problem(place.file, place.line, dotted(path), told))
    if problems:
        raise RecipeError(problems.values())


def written(key: str, value: Any) -> str:
    """A change to a recipe as it is written on the command line."""
    return f"{key}={json.dumps(value)}"


def dump(recipe: Recipe, *, defaults: bool = True) -> str:
    """The recipe as YAML that loads back to an equal one.

    Args:
        defaults: write every option, so that the text means the same under other defaults.
    """
    return yaml.dump(
        plain(recipe, defaults=defaults),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=120,
    )


class _Dumper(yaml.SafeDumper):
    """Writes text in quotes where it would be read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(plain_scalar(text), str) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _file(source: str | Path) -> Path:
    """The file that a path or a shipped name stands for."""
    name = str(source)
    try:
        path = Path(source)
        if path.is_file():
            return path
    except (OSError, ValueError):
        raise StillhouseError(f"{shorten(name)!r} is neither a recipe's name nor a path") from None
    known = recipes()
    written_as_path = isinstance(source, Path) or name.endswith((".yaml", ".yml"))
    if written_as_path or (name and name not in known and path.exists()):
        what = "is a folder" if path.is_dir() else "is not a plain file" if path.exists() else "does not exist"
        raise StillhouseError(f"the recipe {shorten(name)} {what} (looked in {Path.cwd()})")
    if name not in known:
        raise StillhouseError(
            f"no recipe is named {shorten(name)!r}, and there is no such file; {nearest(name, known)} "
            "('stillhouse list recipes' shows them all)"
        )
    return known[name].path
