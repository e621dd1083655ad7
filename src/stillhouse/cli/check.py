"""stillhouse check: the preflight, without training."""

from __future__ import annotations

from typing import Annotated

import typer

from stillhouse.cli.options import Json, Overrides, Plugins, Recipe, Root, command
from stillhouse.cli.output import print_json, stdout_for_json

app = command()


@app.command()
def check(
    recipe: Recipe,
    overrides: Overrides = None,
    plugin: Plugins = None,
    root: Root = None,
    strict: Annotated[bool, typer.Option("--strict", help="Leave with 2 for a warning too.")] = False,
    json: Json = False,
) -> None:
    """Find what would ruin a run, without training.

    Shapes, taps, vocabularies and tokenisations, memory, and the teacher's own score on the data.

    Leaves with 2 if the recipe cannot run as it stands.

    \b
      stillhouse check kd-digits
      stillhouse check my-recipe.yaml train.batch_size=512
    """
    from stillhouse.engine.paths import set_root
    from stillhouse.recipe.text import load

    set_root(root)
    loaded = load(recipe, overrides or (), plugin or ())
    from stillhouse.recipe.check import check as preflight

    with stdout_for_json(json):
        report = preflight(loaded)
    if json:
        print_json(report.to_dict())
    else:
        print(report.table())
    if not (report.clean if strict else report.passed):
        raise typer.Exit(2)
