"""The data a recipe may name. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from stillhouse.kinds import Kind


class DataKind(Kind):
    """Three splits (train, validation, test) of one data set: builds a `stillhouse.engine.contracts.Data`."""

    family: ClassVar[str] = "data"


class Digits(DataKind):
    """scikit-learn's 1,797 real images of handwritten digits: 8 x 8, grey, 10 classes. Nothing is downloaded."""

    kind: Literal["digits"] = "digits"
    builds = "stillhouse.sources.digits:digits"
    test: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the images kept for the report, drawn once by class with a fixed seed."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share kept for tuning, never reported."""
    shift: Annotated[int, Field(ge=0, le=3)] = 1
    """Training images are moved by up to this many pixels each way."""

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Digits:
        if self.test + self.validation >= 1:
            raise ValueError("'test' and 'validation' together leave nothing to train on; their sum must stay below 1")
        return self
