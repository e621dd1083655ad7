"""stillhouse export: the student alone, loadable without Stillhouse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.cli.options import Json, RunFolder, command
from stillhouse.cli.output import path_for_reading, print_json

app = command()


@app.command()
def export(
    run: RunFolder,
    to: Annotated[str, typer.Option(metavar="FORMAT", help="hf, onnx or safetensors.", show_default=False)],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to [default: RUN/export-FORMAT].")] = None,
    json: Json = False,
) -> None:
    """Export a run's student alone.

    safetensors: weights and config. onnx: a graph for any runtime (needs stillhouse[onnx]).
    hf: a Hugging Face folder, where the student is a Hugging Face model.

    \b
      stillhouse export runs/kd-digits --to onnx --out student
    """
    from stillhouse.students.export import export as write_student

    folder = write_student(run, to, out or run / f"export-{to}")
    if json:
        print_json({"folder": str(folder.resolve()), "files": sorted(file.name for file in folder.iterdir())})
        return
    print(f"{path_for_reading(folder)}:")
    for file in sorted(folder.iterdir()):
        print(f"  {file.name}  {file.stat().st_size:,} bytes")
