"""Tables as the data of a recipe. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.sources.kinds import SplitKind


class Table(SplitKind):
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
