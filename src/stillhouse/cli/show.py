"""stillhouse show: a recipe, a kind or a paper."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from stillhouse.cli.options import Json, Overrides, Plugins, command
from stillhouse.cli.output import print_columns, print_json, print_wrapped
from stillhouse.errors import StillhouseError, nearest

app = command()


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A recipe, a kind, or a paper's key.", show_default=False)
    ],
    overrides: Overrides = None,
    python: Annotated[bool, typer.Option("--python", help="A recipe as the equivalent Python program.")] = False,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Show a recipe, a method, a loss, a network or a paper.

    What it does, what it needs, its options, and the evidence for it.

    \b
      stillhouse show kd-digits
      stillhouse show kd-digits train.epochs=5 --python
      stillhouse show kl
    """
    if _is_recipe(name):
        _recipe(name, overrides or [], plugin or [], python, json)
        return
    if python or overrides:
        raise StillhouseError(f"{name!r} is no recipe; only a recipe takes key=value and --python")
    found = _kinds(name, plugin or [])
    if found:
        if json:
            print_json({"kinds": [_kind_facts(kind) for kind in found]})
        for kind in [] if json else found:
            _print_kind(kind)
        return
    _paper(name, plugin or [], json)


def _is_recipe(name: str) -> bool:
    from stillhouse.catalog.shipped import recipes

    return name in recipes() or name.endswith((".yaml", ".yml")) or Path(name).is_file()


def _recipe(name: str, overrides: list[str], plugins: list[Path], python: bool, as_json: bool) -> None:
    from stillhouse.catalog import shipped
    from stillhouse.catalog.state import recipe_state
    from stillhouse.recipe.text import dump, load, python_program
    from stillhouse.recipe.values import plain

    recipe = load(name, overrides, plugins)
    if python:
        print_json({"program": python_program(recipe)}) if as_json else print(python_program(recipe), end="")
        return
    own = shipped.recipes().get(name)
    state = recipe_state(own) if own else None
    if as_json:
        told = {"state": state.word, "note": state.note} if state else {}
        print_json({"recipe": plain(recipe, defaults=True), **told})
        return
    print(dump(recipe, defaults=False), end="")
    if state:
        print(f"\n# {state.word}: {state.note}")


def _kinds(name: str, plugins: list[Path]) -> list[Any]:
    from stillhouse.cli.list import FAMILIES
    from stillhouse.recipe.registry import known

    return [known(family, plugins)[name] for family in FAMILIES.values() if name in known(family, plugins)]


def _kind_facts(kind: Any) -> dict[str, Any]:
    from stillhouse.recipe.slots import field_slot

    options = [
        {
            "name": name,
            "takes": str(field_slot(field)),
            "default": "required" if field.is_required() else _written(field.get_default(call_default_factory=True)),
            "about": " ".join((field.description or "").split()),
        }
        for name, field in kind.model_fields.items()
        if name != kind.tag
    ]
    word = kind.model_fields[kind.tag].default
    about = inspect.cleandoc(kind.__doc__ or "")
    return {
        "name": word,
        "family": kind.family,
        "about": about,
        "options": options,
        "needs": kind.needs,
        "builds": kind.builds,
    }


def _written(default: Any) -> str:
    """A default as a recipe would write it."""
    from json import dumps

    from stillhouse.recipe.values import plain

    return dumps(plain(default))


def _print_kind(kind: Any) -> None:
    facts = _kind_facts(kind)
    print(f"{facts['family']} {facts['name']}\n\n{facts['about']}\n")
    if facts["options"]:
        print_columns(
            [[o["name"], o["default"], "; ".join(filter(None, (o["takes"], o["about"])))] for o in facts["options"]]
        )
        print()
    if facts["needs"]:
        print(f"needs: pip install 'stillhouse[{facts['needs']}]'")
    if facts["builds"]:
        print(f"built by {facts['builds'].replace(':', '.')}")


def _paper(name: str, plugins: list[Path], as_json: bool) -> None:
    from dataclasses import asdict

    from stillhouse.catalog.papers import paper, papers
    from stillhouse.catalog.state import paper_states

    if not any(name == known.key for known in papers()):
        raise StillhouseError(
            f"there is no recipe, kind or paper named {name[:100]!r}; {nearest(name, _names(plugins))}"
        )
    found, states = paper(name), paper_states(name)
    if as_json:
        told = [{"recipe": state.recipe, "state": state.word, "note": state.note} for state in states]
        print_json({"paper": asdict(found), "recipes": told})
        return
    print(f"{found.title}\n{found.key} ({', '.join((found.family, *found.also))}; {found.kind}; {found.modality})\n")
    for title, text in (("Mechanism", found.mechanism), ("Claims", found.headline), ("A small proof", found.proof)):
        if text:
            print(f"{title}:")
            print_wrapped(text, 2)
    if found.primitives:
        print("Needs:")
        for primitive in found.primitives:
            print_wrapped(f"- {primitive}", 2)
    print("\nState: " + ("no recipe" if not states else ""))
    print_columns([[f"  {state.recipe}", state.word, state.note] for state in states])


def _names(plugins: list[Path]) -> list[str]:
    from stillhouse.catalog.papers import papers
    from stillhouse.catalog.shipped import recipes
    from stillhouse.cli.list import FAMILIES
    from stillhouse.recipe.registry import known

    kinds = [name for family in FAMILIES.values() for name in known(family, plugins)]
    return [*recipes(), *kinds, *(paper.key for paper in papers())]
