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
        str,
        typer.Argument(
            metavar="NAME", help="A recipe, a section of recipes, a kind, or a paper's key.", show_default=False
        ),
    ],
    overrides: Overrides = None,
    python: Annotated[bool, typer.Option("--python", help="A recipe as the equivalent Python program.")] = False,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Show a recipe, what a recipe may say, or a paper.

    What it does, what it needs, its options, and the evidence for it.

    \b
      stillhouse show kd-digits
      stillhouse show kd-digits train.epochs=5 --python
      stillhouse show train
      stillhouse show kl
    """
    if _is_recipe(name):
        _recipe(name, overrides or [], plugin or [], python, json)
        return
    if python or overrides:
        raise StillhouseError(f"{name!r} is no recipe; only a recipe takes key=value and --python")
    found = _kinds(name, plugin or [])
    section = _section(name)
    if found or section:
        if json:
            print_json({**({"section": section} if section else {}), "kinds": [_kind_facts(kind) for kind in found]})
            return
        if section:
            _print_section(section)
        for kind in found:
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
    told = (state.word, state.note) if state else None
    if state and recipe.model_copy(update={"seed": 0}) != load(name, ["seed=0"], plugins):
        told = ("recipe", f"not proved with {' '.join(overrides)}; as it ships, {name} is {_state(state)}")
    if as_json:
        words = {"state": told[0], "note": told[1]} if told else {}
        print_json({"recipe": plain(recipe, defaults=True), **words})
        return
    print(dump(recipe, defaults=False), end="")
    if state and told:
        print(f"\n# {_state(state) if told[1] == state.note else told[1]}")


def _state(state: Any) -> str:
    """How far a recipe is shown to work, in one clause: "proved on 2026-01-31 by version 1.0, seeds 0, 1, 2"."""
    return state.note if state.note.startswith(state.word) else ": ".join(filter(None, (state.word, state.note)))


def _kinds(name: str, plugins: list[Path]) -> list[Any]:
    from stillhouse.cli.list import FAMILIES
    from stillhouse.recipe.registry import known

    return [known(family, plugins)[name] for family in FAMILIES.values() if name in known(family, plugins)]


def _kind_facts(kind: Any) -> dict[str, Any]:
    word = kind.model_fields[kind.tag].default
    about = inspect.cleandoc(kind.__doc__ or "")
    return {
        "name": word,
        "family": kind.family,
        "about": about,
        "options": _options(kind),
        "example": _example(kind),
        "needs": kind.needs,
        "builds": kind.builds,
    }


def _options(model: Any) -> list[dict[str, str]]:
    """What may be written under a kind or a section: the schema's fields, their types, defaults and docstrings."""
    from stillhouse.recipe.slots import field_slot

    return [
        {
            "name": name,
            "takes": str(field_slot(field)),
            "default": "required" if field.is_required() else _written(field.get_default(call_default_factory=True)),
            "about": " ".join((field.description or "").split()),
        }
        for name, field in model.model_fields.items()
        if name != getattr(model, "tag", None)
    ]


PLACES = {
    "method": "method: {}",
    "term": "method: {{kind: match, terms: [{}]}}",
    "gate": "method: {{kind: match, terms: [{{by: kl, signal: logits, gate: {}}}]}}",
    "network": "student: {{network: {}}}",
    "data": "data: {}",
    "metric": "evaluate: [{}]",
    "weights": "student: {{weights: {}}}",
    "view": "teacher: {{view: {}}}",
    "sampler": "teacher: {{sampler: {}}}",
    "optimizer": "train: {{optimizer: {}}}",
}
"""Where in a recipe a kind of each family may stand."""


def _example(kind: Any) -> str:
    """A line of YAML that uses a kind; what it needs and only the user knows stands in capitals."""
    given = {kind.tag: kind.model_fields[kind.tag].default}
    if kind.family == "term" and not kind.model_fields["signal"].is_required():
        given["signal"] = kind.model_fields["signal"].get_default()
    given |= {name: _placeholder(name, field) for name, field in kind.model_fields.items() if field.is_required()}
    pairs = ", ".join(f"{name}: {text}" for name, text in given.items())
    return PLACES.get(kind.family, "{}").format(f"{{{pairs}}}")


def _placeholder(name: str, field: Any) -> str:
    """What stands for a required option: the loss everybody knows for a list of terms, or else its name."""
    from stillhouse.recipe.slots import field_slot

    if name == "terms":
        return "[{by: kl, signal: logits}]"
    return f"[{name.upper()}, ...]" if field_slot(field).shape is list else name.upper()


def _section(name: str) -> dict[str, Any] | None:
    """A top-level key of recipes: what it takes, and the options of each form it has."""
    from stillhouse.recipe.schema import Recipe
    from stillhouse.recipe.slots import field_slot

    field = Recipe.model_fields.get(name)
    if field is None:
        return None
    (row,) = (option for option in _options(Recipe) if option["name"] == name)
    model = _model_of(field_slot(field))
    about = row["about"] or (inspect.cleandoc(model.__doc__ or "") if model else "")
    return {**row, "about": about, "options": _options(model) if model else []}


def _model_of(slot: Any) -> Any:
    """The set of options that a slot, the items of its list or the values of its mapping take; None for scalars."""
    from typing import get_args

    from stillhouse.recipe.slots import Slot

    for member in slot.members:
        below = [Slot.of(argument) for argument in get_args(member.type)[-1:]] if not member.choice else []
        for one in (member, *below):
            if not one.choice and one.shape is dict and hasattr(one.type, "model_fields"):
                return one.type
    return None


def _print_section(section: dict[str, Any]) -> None:
    default = section["default"]
    said = default if default == "required" else f"default: {default}"
    print(f"{section['name']}: a section of recipes ({said})\n")
    if section["about"]:
        print_wrapped(section["about"])
    print_wrapped(f"Takes {section['takes']}.")
    print()
    if section["options"]:
        _print_options(section["options"])
    elif " kind (" in section["takes"]:
        print("`stillhouse show KIND` tells the options of each.\n")


def _print_options(options: list[dict[str, str]]) -> None:
    print_columns([[o["name"], o["default"], "; ".join(filter(None, (o["takes"], o["about"])))] for o in options])
    print()


def _written(default: Any) -> str:
    """A default as a recipe would write it."""
    from json import dumps

    from stillhouse.recipe.values import plain

    return dumps(plain(default))


def _print_kind(kind: Any) -> None:
    facts = _kind_facts(kind)
    print(f"{facts['family']} {facts['name']}\n\n{facts['about']}\n")
    if facts["options"]:
        _print_options(facts["options"])
    print(f"in a recipe: {facts['example']}")
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
    print_columns([[f"  {state.recipe}", _state(state)] for state in states])


def _names(plugins: list[Path]) -> list[str]:
    from stillhouse.catalog.papers import papers
    from stillhouse.catalog.shipped import recipes
    from stillhouse.cli.list import FAMILIES
    from stillhouse.recipe.registry import known
    from stillhouse.recipe.schema import Recipe

    kinds = [name for family in FAMILIES.values() for name in known(family, plugins)]
    return [*recipes(), *Recipe.model_fields, *kinds, *(paper.key for paper in papers())]
