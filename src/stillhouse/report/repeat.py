"""The commands that give a run again, told on its page and its card."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from stillhouse.report.files import RunFiles

PATHS = ("path", "store", "tokenizer")
"""The keys of a recipe under which a path may stand."""
ELSEWHERE = ("hub:", "~")
"""How a path starts that does not depend on the root."""


def again(run: RunFiles) -> str:
    """What repeats the run when it is called in its folder."""
    return shlex.join(["stillhouse", "run", "recipe.yaml", *_seed(run), *_launched(run)])


def proof(run: RunFiles) -> str:
    """What proves the recipe of the run when it is called in its folder; "" where it has no proof.

    It names the file in the folder: a recipe that ships under the same name may have other settings.
    """
    return shlex.join(["stillhouse", "prove", "recipe.yaml", *_launched(run)]) if run.plan.get("proof") else ""


def onward(run: RunFiles) -> str:
    """What goes on with a run that has not come to its end."""
    return shlex.join(["stillhouse", "resume", str(run.folder)])


def _seed(run: RunFiles) -> list[str]:
    return [] if run.seed is None else ["--seed", str(run.seed)]


def _launched(run: RunFiles) -> list[str]:
    """The options that the run was started with and that its recipe leans on."""
    root = run.launch.get("root")
    words = ["--root", str(root)] if root and any(_relative(run.plan)) else []
    for plugin in run.launch.get("plugins") or []:
        words += ["--plugin", str(plugin)]
    device = run.launch.get("device")
    return [*words, *(["--device", str(device)] if device else [])]


def _relative(plan: Any) -> Iterator[str]:
    """The relative paths in a recipe."""
    below = plan.items() if isinstance(plan, Mapping) else enumerate(plan) if isinstance(plan, list) else ()
    for key, value in below:
        if not isinstance(value, str):
            yield from _relative(value)
        elif key in PATHS and not value.startswith(ELSEWHERE) and not PurePath(value).is_absolute():
            yield value
