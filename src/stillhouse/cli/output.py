"""What the commands print."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any


@contextmanager
def stdout_for_json(wanted: bool) -> Iterator[None]:
    """Inside, what is printed goes to stderr if the command's answer is JSON."""
    if wanted:
        with redirect_stdout(sys.stderr):
            yield
    else:
        yield


def is_first_process() -> bool:
    """Whether this process answers: of those that torchrun or accelerate launch, the first one does."""
    return os.environ.get("RANK", "0") == "0"


def print_json(answer: Mapping[str, Any]) -> None:
    """One JSON object; numbers that are not finite become null."""
    print(json.dumps(_finite(answer), indent=2, ensure_ascii=False, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Rows in aligned columns; on a terminal the last one is wrapped to its width."""
    if not rows:
        return
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    room = max(shutil.get_terminal_size((120, 24)).columns - indent, 30)
    for *cells, last in rows:
        start = "".join(f"{cell:<{width}}  " for cell, width in zip(cells, widths, strict=True))
        lines = textwrap.wrap(last, room, break_on_hyphens=False) if sys.stdout.isatty() else [last]
        print((start + f"\n{' ' * indent}".join(lines)).rstrip())


def print_wrapped(text: str, indent: int = 0) -> None:
    """A paragraph, wrapped to the terminal."""
    room = min(shutil.get_terminal_size((100, 24)).columns, 110)
    print(
        textwrap.fill(text, room, initial_indent=" " * indent, subsequent_indent=" " * indent, break_on_hyphens=False)
    )


def path_for_reading(path: Path) -> str:
    """A path as short as it is from here."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
