"""Where the relative paths of a recipe are looked up."""

from __future__ import annotations

import os
from pathlib import Path

from stillhouse.errors import StillhouseError

_VARIABLE = "STILLHOUSE_ROOT"


def set_root(folder: str | Path | None) -> None:
    """Look up relative paths in this folder from now on, in child processes too; None leaves things as they are.

    Raises StillhouseError when there is no such folder.
    """
    if folder is None:
        return
    root = Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise StillhouseError(f"--root: there is no folder {root}")
    os.environ[_VARIABLE] = str(root)


def root() -> Path:
    """The folder in which relative paths are looked up."""
    return Path(os.environ.get(_VARIABLE) or ".").expanduser().resolve()


def resolve(path: str | Path) -> Path:
    """The place a recipe's path names: absolute as it is, relative to the root (by default the current folder)."""
    return root() / Path(path).expanduser()


def resolve_file(path: str | Path, key: str) -> Path:
    """`resolve` for a file that must be there; `key` is the recipe's, for the message.

    Raises StillhouseError naming where the file was looked for.
    """
    found = resolve(path)
    if not found.is_file():
        what = "is a folder, not a file" if found.is_dir() else "does not exist"
        raise StillhouseError(
            f"{key}: {found} {what}. Relative paths start at {root()}: give another folder with --root, "
            f"or another path with {key}=PATH"
        )
    return found
