"""stillhouse store: a teacher's outputs on disk."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stillhouse.cli.options import Device, Json, Overrides, Plugins, Quiet, Recipe, Root, command
from stillhouse.cli.output import path_for_reading, print_columns, print_json, stdout_for_json
from stillhouse.errors import StillhouseError

app = command()
Folder = Annotated[Path, typer.Argument(metavar="STORE", help="The store's folder.", show_default=False)]


@app.callback()
def store() -> None:
    """Build, inspect or verify a store of a teacher's outputs.

    \b
      stillhouse store build kd-digits data.shift=0 --out stores/digits
      stillhouse run kd-digits data.shift=0 teacher.store=stores/digits
      stillhouse store verify stores/digits
    """


class Precision(StrEnum):
    """How finely values are kept."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


@app.command()
def build(
    recipe: Recipe,
    overrides: Overrides = None,
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The store's folder.", show_default=False)],
    top_k: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Keep K classes of the logits and the mass of the rest.")
    ] = None,
    dtype: Annotated[Precision, typer.Option(help="How finely values are kept.")] = Precision.FLOAT32,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Examples in one pass of the teacher.")] = 256,
    device: Device = None,
    plugin: Plugins = None,
    root: Root = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write the answers of a recipe's teacher on its training data.

    Stopped or killed, the same command goes on from there.

    \b
      stillhouse store build kd-digits data.shift=0 --out stores/digits
      stillhouse store build gkd-text --out stores/text --top-k 32
    """
    from stillhouse.engine.paths import set_root
    from stillhouse.recipe.text import load

    set_root(root)
    loaded = load(recipe, overrides or (), plugin or ())
    from stillhouse.recipe.targets import build_for
    from stillhouse.store.inspection import info as look

    with stdout_for_json(json):
        build_for(
            loaded,
            out,
            top_k=top_k,
            dtype=dtype.value,
            batch_size=batch_size,
            device=device,
            progress=False if quiet else None,
        )
    facts = look(out)
    if json:
        print_json(facts)
        return
    print(f"{facts['records']:,} examples, {facts['bytes']:,} bytes in {path_for_reading(out)}")
    for name, signal in facts["signals"].items():
        token = f", {signal['bytes_per_token']:g} a token" if "bytes_per_token" in signal else ""
        print(f"{name}: {signal['bytes_per_example']:,} bytes an example{token}")
    words = " ".join([recipe, *(overrides or ())])
    print(f"Next:   stillhouse run {words} teacher.store={path_for_reading(out)}")


@app.command()
def info(folder: Folder, json: Json = False) -> None:
    """Tell what a store holds.

    \b
      stillhouse store info stores/digits
    """
    from stillhouse.store.inspection import info as look

    facts = look(folder)
    if json:
        print_json(facts)
    else:
        print_columns([[name, str(value)] for name, value in facts.items()])


@app.command()
def verify(folder: Folder, json: Json = False) -> None:
    """Compare a store with its checksums.

    Leaves with 2 if anything differs.

    \b
      stillhouse store verify stores/digits
    """
    from stillhouse.store.inspection import verify as read_all

    problems = read_all(folder)
    if json:
        print_json({"folder": str(folder), "problems": problems})
        raise typer.Exit(2 if problems else 0)
    if problems:
        raise StillhouseError("\n".join(problems))
    print(f"{folder}: whole")
