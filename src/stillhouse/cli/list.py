"""stillhouse list: the recipes, kinds and papers there are."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stillhouse.cli.options import Json, Plugins, command
from stillhouse.cli.output import print_columns, print_json
from stillhouse.errors import StillhouseError, nearest

app = command()

FAMILIES = {
    "methods": "method",
    "objectives": "term",
    "gates": "gate",
    "networks": "network",
    "data": "data",
    "metrics": "metric",
    "weights": "weights",
    "views": "view",
    "samplers": "sampler",
    "optimizers": "optimizer",
}
"""What is listed, and the family of kinds it is."""
WORDS = ("recipes", "papers", *FAMILIES)


@app.command()
def list_kinds(
    what: Annotated[str, typer.Argument(metavar="WHAT", help=f"One of {', '.join(WORDS)}.", show_default=False)],
    family: Annotated[str | None, typer.Option(help="Of recipes and papers: only this family.")] = None,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """List the recipes, methods, objectives, networks, papers.

    \b
      stillhouse list recipes
      stillhouse list papers --family logit
      stillhouse list objectives --json
    """
    if what not in WORDS:
        raise StillhouseError(f"there is no list of {what!r}; {nearest(what, WORDS)}")
    if family is not None and what in FAMILIES:
        raise StillhouseError(f"--family chooses among recipes and papers; {what} have none")
    rows = (
        _papers(family) if what == "papers" else _recipes(family) if what == "recipes" else _kinds(what, plugin or [])
    )
    if json:
        print_json({what: rows})
    else:
        print_columns([[str(row[column]) for column in _COLUMNS.get(what, ("name", "about"))] for row in rows])


_COLUMNS = {"recipes": ("name", "family", "state", "about"), "papers": ("key", "family", "state", "title")}


def _recipes(family: str | None) -> list[dict[str, Any]]:
    from stillhouse.catalog.shipped import recipes
    from stillhouse.catalog.state import recipe_state

    found = recipes().values()
    known = sorted({recipe.family for recipe in found})
    if family is not None and family not in known:
        raise StillhouseError(f"no family of recipes is named {family!r}; {nearest(family, known)}")
    return [
        {
            "name": recipe.name,
            "family": recipe.family,
            "state": recipe_state(recipe).word,
            "papers": list(recipe.papers),
            "about": recipe.about,
        }
        for recipe in found
        if family in (None, recipe.family)
    ]


def _papers(family: str | None) -> list[dict[str, Any]]:
    from stillhouse.catalog.papers import papers
    from stillhouse.catalog.state import paper_state

    return [
        {"key": paper.key, "family": paper.family, "state": paper_state(paper.key).word, "title": paper.title}
        for paper in papers(family=family)
    ]


def _kinds(what: str, plugins: list[Any]) -> list[dict[str, Any]]:
    from stillhouse.recipe.registry import known

    return [
        {"name": name, "about": first_line(kind.__doc__ or ""), "needs": kind.needs}
        for name, kind in known(FAMILIES[what], plugins).items()
    ]


def first_line(text: str) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join(text.strip().split("\n\n")[0].split())
