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

from stillhouse.cli.output import is_first_process, print_json
from stillhouse.errors import Interrupted, ProofFellShort, RunFailed, StillhouseError, nearest

COMMANDS = ("run", "resume", "check", "list", "show", "prove", "search", "compare", "report", "store", "export")

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


class _Failed(Exception):
    """Carries its cause past Typer, which deals in its own way with these."""


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
        except (KeyboardInterrupt, OSError) as error:
            raise _Failed from error


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
    try:
        code = app([a for a in arguments if a != DEBUG], prog_name="stillhouse", standalone_mode=False)
    except Exception as error:
        cause = (error.__cause__ if isinstance(error, _Failed) else None) or error
        code = _told(cause, debug=DEBUG in arguments, as_json="--json" in arguments)
    sys.exit(code)


def _told(error: BaseException, *, debug: bool, as_json: bool) -> int:
    """Tell the user what happened, and a program too; the exit code to leave with."""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if debug:
        traceback.print_exception(error)
    message, code = _in_words(error)
    answered = isinstance(error, ProofFellShort)  # its evidence is the JSON object, and is printed
    if as_json and message and not answered and is_first_process():
        print_json({"error": message, "exit": code})
    return code


def _in_words(error: BaseException) -> tuple[str, int]:
    """The message, which is also printed on stderr, and the exit code."""
    prefix, message, code = "error: ", str(error), RunFailed.exit_code
    if hasattr(error, "format_message"):  # Typer's own: words that do not make a command
        error.show()  # type: ignore[attr-defined]
        return error.format_message(), error.exit_code  # type: ignore[attr-defined]
    match error:
        case StillhouseError():
            prefix = "" if isinstance(error, Interrupted | ProofFellShort) else prefix
            code = error.exit_code
        case KeyboardInterrupt():
            prefix, message, code = "", "interrupted", Interrupted.exit_code
        case OSError():
            pass
        case _:
            message = f"{type(error).__name__}: {error}\nThis should not happen. {DEBUG} shows where it did."
    _say(prefix, message)
    return message, code


def _say(prefix: str, message: str) -> None:
    """A message on stderr, in colour where that is a terminal."""
    message = message.replace("\n", "\n  ")
    if prefix and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True).print(Text.assemble((prefix, "bold red"), message), soft_wrap=True)
    else:
        print(f"{prefix}{message}", file=sys.stderr)
