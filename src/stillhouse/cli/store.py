"""stillhouse store: a teacher's outputs on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.cli.options import Json, command
from stillhouse.cli.output import print_columns, print_json
from stillhouse.errors import StillhouseError

app = command()
Folder = Annotated[Path, typer.Argument(help="The store's folder.", show_default=False)]


@app.callback()
def store() -> None:
    """Build, inspect or verify a store of a teacher's outputs.

    \b
      stillhouse store build kd-digits --out stores/digits
      stillhouse run kd-digits teacher.store=stores/digits data.shift=0
    """


@app.command()
def info(folder: Folder, json: Json = False) -> None:
    """Tell what a store holds."""
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
    """
    from stillhouse.store.inspection import verify as read_all

    problems = read_all(folder)
    if json:
        print_json({"folder": str(folder), "problems": problems})
    if problems:
        raise StillhouseError("\n".join(problems))
    if not json:
        print(f"{folder}: whole")
