"""stillhouse run: a recipe, from its start to a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.cli.options import Device, Json, Overrides, Plugins, Quiet, Recipe, Root, Track, command
from stillhouse.cli.output import is_first_process, path_for_reading, print_json, stdout_for_json

app = command()


@app.command()
def run(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run folder [default: runs/NAME].")] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="The run's seed, as seed=N.")] = None,
    device: Device = None,
    plugin: Plugins = None,
    root: Root = None,
    track: Track = None,
    unchecked: Annotated[bool, typer.Option("--no-check", help="Start without the preflight.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run a recipe and leave a run folder.

    Begins with what `stillhouse check` looks at, and writes nothing if the recipe cannot run.
    Ctrl-C saves the state and says how to go on.

    \b
      stillhouse run kd-digits
      stillhouse run kd-digits train.epochs=5 student.network.width=16 --seed 1
      stillhouse run my-recipe.yaml --root ~/data --out runs/mine --device cuda
    """
    from stillhouse.engine.paths import set_root
    from stillhouse.recipe.text import load

    set_root(root)
    changes = [*(overrides or ()), *([] if seed is None else [f"seed={seed}"])]
    loaded = load(recipe, changes, plugin or ())
    from stillhouse.recipe.execute import distill

    with stdout_for_json(json):
        shown = False if quiet else None
        done = distill(
            loaded,
            out=out,
            device=device,
            progress=shown,
            plugins=plugin or (),
            track=track,
            check=not unchecked,
        )
    if not is_first_process():
        return
    if json:
        print_json({"folder": str(done.folder.resolve()), **done.summary})
        return
    folder = path_for_reading(done.folder)
    print(f"\n{done.table()}\n\nReport: {path_for_reading(done.report)}")
    print(f"Next:   stillhouse export {folder} --to safetensors --out {loaded.name}-student")
