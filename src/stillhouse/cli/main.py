"""The command `stillhouse`: what it is called with, and what it leaves with."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stillhouse.errors import Interrupted, ProofFellShort, RunFailed, StillhouseError, nearest

COMMANDS = ("run", "resume", "check", "list", "show", "prove", "compare", "report", "store", "export")

DEBUG = "--debug"
HELP = """Distillation of every kind: one engine, a control arm, and evidence.

A recipe says what is distilled. RECIPE is the name of one that ships with the package
(`stillhouse list recipes`), or the path of a YAML file.

\b
  stillhouse run kd-digits                      run a recipe, leave a run folder
  stillhouse run kd-digits train.epochs=5       change it on the command line
  stillhouse show kd-digits --python            the same as a Python program
  stillhouse list papers --family logit         the papers of the field, and their state

Exit codes: 0 done; 2 the input was wrong; 3 the run failed; 4 a proof fell short;
130 interrupted, state saved. --debug, anywhere, shows the traceback of an error.
"""


class _Commands(TyperGroup):
    """Imports a command's file when the command is called, or its line of help is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            ctx.fail(f"there is no command {cmd_name!r}; {nearest(cmd_name, COMMANDS)}")
        command = typer.main.get_command(import_module(f"stillhouse.cli.{cmd_name}").app)
        command.name = cmd_name
        return command

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (StillhouseError, KeyboardInterrupt, OSError) as error:
            raise typer.Exit(_told(error, debug=ctx.obj)) from error


app = typer.Typer(
    cls=_Commands,
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        import stillhouse

        print(stillhouse.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None: ...


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; leaves with the exit codes that its help names."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in arguments
    try:
        app([a for a in arguments if a != DEBUG], prog_name="stillhouse", obj=debug)
    except Exception as error:
        sys.exit(_told(error, debug=debug))


def _told(error: BaseException, debug: bool) -> int:
    """Tell the user what happened; the exit code to leave with."""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if debug:
        traceback.print_exception(error)
    match error:
        case StillhouseError():
            expected = isinstance(error, Interrupted | ProofFellShort)
            _say("" if expected else "error: ", str(error))
            return error.exit_code
        case KeyboardInterrupt():
            _say("", "interrupted")
            return Interrupted.exit_code
        case OSError():
            _say("error: ", str(error))
        case _:
            _say("error: ", f"{type(error).__name__}: {error}\nThis should not happen. {DEBUG} shows where it did.")
    return RunFailed.exit_code


def _say(prefix: str, message: str) -> None:
    """A message on stderr, in colour where that is a terminal."""
    message = message.replace("\n", "\n  ")
    if prefix and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True).print(Text.assemble((prefix, "bold red"), message), soft_wrap=True)
    else:
        print(f"{prefix}{message}", file=sys.stderr)
