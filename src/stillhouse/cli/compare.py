"""stillhouse compare: several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.cli.options import Json, command
from stillhouse.cli.output import path_for_reading, print_json

app = command()


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the comparison as a page, too.")] = None,
    json: Json = False,
) -> None:
    """Compare runs: their metrics side by side.

    Runs of one recipe are put together: means and intervals over their seeds.

    \b
      stillhouse compare runs/kd-digits runs/kd-digits-2
    """
    from stillhouse.report.compare import compare as put_together

    comparison = put_together(runs)
    if html:
        comparison.html(html)
    if json:
        print_json(comparison.to_dict())
        return
    print(comparison.table())
    if html:
        print(f"\nPage: {path_for_reading(html)}")
