"""Every kind that a recipe may name: those of the package, of installed plug-ins and of plug-in files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import stillhouse.recipe.schema  # noqa: F401  (imports the package's kinds, which register themselves)
from stillhouse.kinds import Kind, kinds, load_entry_points, load_plugin


def known(family: str, plugins: Iterable[str | Path] = ()) -> dict[str, type[Kind]]:
    """The kinds of a family by name.

    Raises:
        StillhouseError: a plug-in is missing or fails.
    """
    load_entry_points()
    for plugin in plugins:
        load_plugin(plugin)
    return kinds(family)
