"""stillhouse resume: go on with a run that was stopped or killed."""

from __future__ import annotations

from stillhouse.cli.options import Json, Quiet, RunFolder, Track, command
from stillhouse.cli.output import is_first_process, path_for_reading, print_json, stdout_for_json

app = command()


@app.command()
def resume(
    run: RunFolder,
    track: Track = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Go on with a run that was stopped or killed.

    It starts from the last whole checkpoint; the result is the uninterrupted run's, bit for bit where
    the device allows it.

    \b
      stillhouse resume runs/kd-digits
    """
    from stillhouse.recipe.execute import resume as go_on

    with stdout_for_json(json):
        done = go_on(run, progress=False if quiet else None, track=track)
    if not is_first_process():
        return
    if json:
        print_json({"folder": str(done.folder.resolve()), **done.summary})
        return
    print(f"\n{done.table()}\n\nReport: {path_for_reading(done.report)}")
    name, folder = done.summary["name"], path_for_reading(done.folder)
    print(f"Next:   stillhouse export {folder} --to safetensors --out {name}-student")
