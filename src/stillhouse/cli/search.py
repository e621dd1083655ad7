"""stillhouse search: try the choices that a recipe leaves open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stillhouse.cli.options import Device, Json, Overrides, Plugins, Quiet, Recipe, Root, command
from stillhouse.cli.output import path_for_reading, print_columns, print_json, stdout_for_json

app = command()


@app.command()
def search(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The search's folder [default: runs/NAME-search].")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, metavar="N", help="In place of the recipe's own.")] = None,
    device: Device = None,
    plugin: Plugins = None,
    root: Root = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Search the choices that a recipe leaves open.

    They stand under 'search' in the recipe. Trials are judged on the validation split; the test split is
    left for the best recipe, which is written as best.yaml. A search that was stopped or killed goes on
    when it is called again. Needs stillhouse[search].

    \b
      stillhouse search distiller-digits
      stillhouse search my-recipe.yaml train.batch_size=32 --trials 30 --out runs/mine
    """
    from stillhouse.engine.paths import set_root
    from stillhouse.recipe.text import load

    set_root(root)
    loaded = load(recipe, overrides or (), plugin or ())
    from stillhouse.recipe.search import search as run_search

    with stdout_for_json(json):
        shown = False if quiet else None
        done = run_search(loaded, out=out, trials=trials, device=device, progress=shown, plugins=plugin or ())
    if json:
        print_json({"folder": str(done.folder.resolve()), **done.outcome})
    else:
        _print(done)


def _print(done: Any) -> None:
    from stillhouse.recipe.search_progress import in_words
    from stillhouse.report import numbers

    outcome, best = done.outcome, done.best
    failed = sum(trial["state"] == "failed" for trial in outcome["trials"])
    value = numbers.metric(outcome["metric"], best["value"])
    lost = f", {failed} failed" if failed else ""
    print(f"\n{len(outcome['trials'])} trials{lost}; the best is trial {best['number']}: {in_words(best['choices'])}")
    print(f"{outcome['metric']} {value} on the validation split\n")
    if outcome["importance"]:
        print("What mattered:")
        ordered = sorted(outcome["importance"].items(), key=lambda item: -item[1])
        print_columns([[f"  {share:6.1%}", key] for key, share in ordered])
    folder = path_for_reading(done.folder)
    print(f"\nReport: {folder}/report.html")
    print(f"Next:   stillhouse run {folder}/best.yaml      (measures the best choices on the test split)")
