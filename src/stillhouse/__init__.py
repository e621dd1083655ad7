"""Stillhouse: one library and one command for every kind of distillation.

    from stillhouse import distill, load

    run = distill(load("kd-digits"))
    print(run.table())

Everything is imported when it is first used: `import stillhouse` costs nothing, and what needs no
torch imports none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillhouse.engine.contracts import Batch, Data, Facts, Loss, Losses, Method, Player, Source, Turn
    from stillhouse.errors import StillhouseError
    from stillhouse.objectives.divergences import cross_entropy, forward_kl, generalised_jsd, reverse_kl
    from stillhouse.recipe.execute import Run, distill, resume
    from stillhouse.recipe.schema import Recipe
    from stillhouse.recipe.text import RecipeError, dump, load, python_program
    from stillhouse.students.load import load_student
    from stillhouse.taps import Taps
    from stillhouse.teachers.frozen import Frozen
    from stillhouse.teachers.trainer import Taught
    from stillhouse.views.model import Model

_HOMES = {
    "stillhouse.engine.contracts": "Batch Data Facts Loss Losses Method Player Source Turn",
    "stillhouse.errors": "StillhouseError",
    "stillhouse.objectives.divergences": "cross_entropy forward_kl generalised_jsd reverse_kl",
    "stillhouse.recipe.execute": "Run distill resume",
    "stillhouse.recipe.schema": "Recipe",
    "stillhouse.recipe.text": "RecipeError dump load python_program",
    "stillhouse.students.load": "load_student",
    "stillhouse.taps": "Taps",
    "stillhouse.teachers.frozen": "Frozen",
    "stillhouse.teachers.trainer": "Taught",
    "stillhouse.views.model": "Model",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Batch",
    "Data",
    "Facts",
    "Frozen",
    "Loss",
    "Losses",
    "Method",
    "Model",
    "Player",
    "Recipe",
    "RecipeError",
    "Run",
    "Source",
    "StillhouseError",
    "Taps",
    "Taught",
    "Turn",
    "cross_entropy",
    "distill",
    "dump",
    "forward_kl",
    "generalised_jsd",
    "load",
    "load_student",
    "python_program",
    "resume",
    "reverse_kl",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("stillhouse")
    if name not in _HOME:
        raise AttributeError(f"module 'stillhouse' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
