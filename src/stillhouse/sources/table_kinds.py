"""Tables as the data of a recipe. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stillhouse.sources.kinds import DataKind


class Table(DataKind):
    """Rows of numbers: features and a target. Features are standardised by the training rows, and so is a number
    to be predicted.
    """

    kind: Literal["table"] = "table"
    builds = "stillhouse.sources.table:table"
    path: Annotated[str, Field(min_length=1)] = "sklearn:diabetes"
    """A CSV file with a header, or a Parquet file, relative to --root; or `sklearn:diabetes`, which is installed."""
    column: str | None = None
    """The one to be predicted; None: the last one."""
    task: Literal["regression", "classification"] = "regression"
    limit: Annotated[int, Field(gt=0)] | None = None
    """Training rows kept; None keeps all."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the rows kept for the report, drawn once with a fixed seed."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share kept for tuning, never reported."""

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Table:
        if self.test + self.validation >= 1:
            raise ValueError("'test' and 'validation' together leave nothing to train on; their sum must stay below 1")
        return self
