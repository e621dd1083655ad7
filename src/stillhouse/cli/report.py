"""stillhouse report: the page of a run."""

from __future__ import annotations

from stillhouse.cli.options import Json, RunFolder, command
from stillhouse.cli.output import path_for_reading, print_json

app = command()


@app.command()
def report(run: RunFolder, json: Json = False) -> None:
    """Write a run's page again, one self-contained HTML file.

    \b
      stillhouse report runs/kd-digits
    """
    from stillhouse.report.page import write_report

    page = write_report(run)
    if json:
        print_json({"report": str(page.resolve())})
    else:
        print(path_for_reading(page))
