"""Where a path of a recipe leads: a folder of this machine, or a repository of the Hugging Face hub."""

from __future__ import annotations

from stillhouse.engine.paths import resolve
from stillhouse.errors import StillhouseError

HUB = "hub:"


def located(path: str, field: str, what: str) -> str:
    """The folder's absolute path, or the hub's name of the repository, as `from_pretrained` takes it.

    Raises StillhouseError for a folder that is not there.
    """
    if path.startswith(HUB):
        return path.removeprefix(HUB)
    folder = resolve(path)
    if not folder.is_dir():
        raise StillhouseError(
            f"{field}: there is no folder {folder}. Relative paths start at --root (now {resolve('.')}); "
            f"{what} of the Hugging Face hub is named '{HUB}owner/name'"
        )
    return str(folder)
