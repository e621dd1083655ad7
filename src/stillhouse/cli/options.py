"""The options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.errors import StillhouseError


def command() -> typer.Typer:
    """What a command's file registers its command with."""
    return typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


def _one_seed(context: typer.Context, changes: list[str] | None) -> list[str] | None:
    """Refuse a seed that is given twice. Arguments are read after the options, so `--seed` is known here."""
    seed = context.params.get("seed")
    twice = next((change for change in changes or () if change.partition("=")[0].strip() == "seed"), None)
    if seed is not None and twice is not None:
        raise StillhouseError(f"--seed {seed} and {twice} both name the run's seed: give one of them")
    return changes


Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a YAML file.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", callback=_one_seed, help="Changes, as train.epochs=5 or method.terms.0.weight=0.5."
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", metavar="FILE", help="A Python file that registers kinds. It runs: name only what you trust."
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="DIR",
        envvar="STILLHOUSE_ROOT",
        show_envvar=False,
        help="Where a recipe's relative paths are looked up [env: STILLHOUSE_ROOT; default: the current folder].",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")]
Device = Annotated[str | None, typer.Option(metavar="D", help="cpu, cuda, cuda:1, mps [default: the fastest].")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Track = Annotated[
    str | None,
    typer.Option(metavar="T", help="Log to tensorboard, trackio or wandb as well, under the run folder."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.", show_default=False)]
