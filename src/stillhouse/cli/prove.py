"""stillhouse prove: run a recipe's proof, all seeds and arms, and write its evidence."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from stillhouse.cli.options import Device, Json, Plugins, Quiet, Root, command
from stillhouse.cli.output import path_for_reading, print_json, stdout_for_json
from stillhouse.errors import ProofFellShort, StillhouseError

app = command()


@app.command()
def prove(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Recipes, or papers' keys; key=value changes them.", show_default=False),
    ],
    seeds: Annotated[str | None, typer.Option(metavar="N,N,...", help="In place of the proof's own.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to [default: evidence, here].")] = None,
    keep_runs: Annotated[
        bool, typer.Option("--keep-runs", help="Leave the run folders of a proof that holds.")
    ] = False,
    device: Device = None,
    plugin: Plugins = None,
    root: Root = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run a recipe's proof and write its evidence.

    NAME is a recipe, or a paper's key: then every recipe that shows it. All seeds and arms run, and what
    they measured goes to evidence/RECIPE.json.

    Leaves with 4 if an expectation fell short. A proof that was stopped goes on when it is called again.

    \b
      stillhouse prove kd-digits
      stillhouse prove kd-digits --seeds 10,11,12 --json
    """
    from stillhouse.engine.paths import set_root

    set_root(root)
    changes = [name for name in names if "=" in name]
    chosen = _seeds(seeds)
    from stillhouse.catalog.evidence import home
    from stillhouse.recipe.prove import prove as run_proof

    found: list[Any] = []
    short: list[str] = []
    with stdout_for_json(json):
        for name in names:
            if name in changes:
                continue
            try:
                found += run_proof(
                    name,
                    seeds=chosen,
                    overrides=changes,
                    out=out,
                    keep_runs=keep_runs,
                    device=device,
                    progress=False if quiet else None,
                    plugins=plugin or (),
                )
            except ProofFellShort as error:
                found += error.evidence
                short.append(str(error))
    if json:
        print_json({"proofs": [{"verdict": evidence.verdict, **asdict(evidence)} for evidence in found]})
    else:
        _print(found, home() if out is None else out)
    if short:
        raise ProofFellShort("\n".join(short), evidence=tuple(found))


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    words = text.split(",")
    if not all(word.strip().isascii() and word.strip().isdigit() for word in words):
        raise StillhouseError(f"--seeds takes whole numbers joined by commas, as 0,1,2; got {text[:80]!r}")
    return [int(word) for word in words]


def _print(found: list[Any], folder: Path) -> None:
    for evidence in found:
        seeds = ", ".join(map(str, evidence.seeds))
        print(f"{evidence.recipe}: {evidence.verdict} (seeds {seeds}; {evidence.seconds:.0f} s)")
        for finding in evidence.expectations:
            print(f"  {'holds ' if finding.holds else 'SHORT '} {finding.text}: {finding.why}")
        print(f"  evidence: {path_for_reading(folder / f'{evidence.recipe}.json')}")
