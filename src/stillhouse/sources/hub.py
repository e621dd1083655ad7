"""Where a path of a recipe leads: a folder of this machine, one inside a Python package, or a hub repository."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from stillhouse.engine.paths import resolve
from stillhouse.errors import StillhouseError

HUB = "hub:"
PACKAGE = "package:"


def located(path: str, field: str, what: str) -> str:
    """The folder's absolute path, or the hub's name of the repository, as `from_pretrained` takes it.

    `package:name/folder` is a folder that an installed Python package carries; nothing of the package is run.
    Raises StillhouseError for a folder, or a package, that is not there.
    """
    if path.startswith(HUB):
        return path.removeprefix(HUB)
    folder = _inside(path.removeprefix(PACKAGE), field) if path.startswith(PACKAGE) else resolve(path)
    if not folder.is_dir():
        raise StillhouseError(
            f"{field}: there is no folder {folder}. Relative paths start at --root (now {resolve('.')}); "
            f"{what} of the Hugging Face hub is named '{HUB}owner/name'"
        )
    return str(folder)


def _inside(path: str, field: str) -> Path:
    """A folder inside an installed package."""
    name, _, rest = path.partition("/")
    found = find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise StillhouseError(
            f"{field}: it lies in the Python package {name!r}, which is not installed: "
            f"pip install {name.replace('_', '-')}"
        )
    return Path(found.submodule_search_locations[0]) / rest
