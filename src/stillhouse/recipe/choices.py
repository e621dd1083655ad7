"""What a recipe leaves open: the words of its `search` section. Imports no torch."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from stillhouse.kinds import Strict

Scalar = str | int | float | bool | None


class Range(Strict):
    """Numbers between two bounds, both included: whole numbers where both bounds are written as such."""

    low: int | float
    high: int | float
    log: bool = False
    """Draw the logarithm evenly: for learning rates, weights, temperatures."""

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"'low' ({self.low:g}) must lie below 'high' ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"a range with log: true starts above zero, not at {self.low:g}")
        return self


class Warm(Strict):
    """Trials that start from earlier ones and learn from them: BOSS, Lee et al. 2023 (arXiv:2304.12666).

    A warm trial draws two of the best earlier trials at random: the one's student is where its own student
    starts, the other's is its teacher. The recipe's own teacher takes no part in the search.
    """

    after: Annotated[int, Field(ge=2)]
    """Trials that begin cold: from random weights, without a teacher. What they show is not told to the sampler
    of the warm ones."""
    pool: Annotated[int, Field(ge=2)]
    """How many of the best trials so far the two are drawn from."""


class SearchSpec(Strict):
    """What `stillhouse search` tries, and what it goes by. Any other command takes the recipe as it is written."""

    choices: dict[str, Annotated[list[Any], Field(min_length=1)] | Range]
    """By the recipe's key: the values to choose from (any that may be written there), or a range of numbers."""
    metric: str
    """The student's, measured on the validation split."""
    direction: Literal["maximise", "minimise"] | None = None
    """None: the way in which the metric is better."""
    trials: Annotated[int, Field(gt=0)] = 20
    overrides: dict[str, Scalar] = {}
    """Recipe keys that every trial sets: a shorter budget, say. The best recipe is written without them."""
    sampler: Literal["tpe", "random"] = "tpe"
    """What proposes a trial: the tree-structured Parzen estimator (Bergstra et al. 2011), or chance."""
    startup: Annotated[int, Field(gt=0)] = 10
    """Trials drawn by chance before `tpe` learns from them."""
    warm: Warm | None = None
    arms: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], dict[str, Any]] = {}
    """Other searches that a proof holds this one against: by name, the recipe keys that they set."""

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: dict[str, list[Any] | Range]) -> dict[str, list[Any] | Range]:
        for key, values in choices.items():
            if isinstance(values, list) and len({json.dumps(value) for value in values}) < len(values):
                raise ValueError(f"{key} lists a choice twice")
        return choices

    @property
    def ends(self) -> dict[str, list[Any]]:
        """By key, the values that show whether all fit: every choice of a list, the bounds of a range."""
        return {
            key: [values.low, values.high] if isinstance(values, Range) else values
            for key, values in self.choices.items()
        }

    @property
    def combinations(self) -> float:
        """How many different trials there are; infinite with a range."""
        count = 1.0
        for values in self.choices.values():
            count *= len(values) if isinstance(values, list) else float("inf")
        return count
