"""A recipe's choices as Optuna takes them, and back."""

from __future__ import annotations

import json
from typing import Any

from stillhouse.errors import StillhouseError
from stillhouse.recipe.choices import Range


def distribution(values: list[Any] | Range) -> Any:
    """A choice as Optuna takes it; what is in a list as its JSON."""
    kinds = optuna_package().distributions
    if isinstance(values, list):
        return kinds.CategoricalDistribution([json.dumps(value) for value in values])
    whole = isinstance(values.low, int) and isinstance(values.high, int)
    return (kinds.IntDistribution if whole else kinds.FloatDistribution)(values.low, values.high, log=values.log)


def value_of(values: list[Any] | Range, param: Any) -> Any:
    """What a recipe is given for Optuna's parameter."""
    return json.loads(param) if isinstance(values, list) else param


def param_of(values: list[Any] | Range, value: Any) -> Any:
    """Optuna's parameter for what a recipe was given."""
    return json.dumps(value) if isinstance(values, list) else value


def optuna_package() -> Any:
    """The optuna package. Raises StillhouseError where it is not installed."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise StillhouseError(
            f"a search needs the package {error.name!r}, which is not installed: pip install 'stillhouse[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
