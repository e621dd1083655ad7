"""Data made on the spot: sentences of a grammar, a scene of Gaussians. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.kinds import Strict
from stillhouse.sources.kinds import DataKind


class Parser(Strict):
    """A parser that is right about some constituents and follows a habit in the others."""

    error: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of true constituents that it splits by its habit."""
    habit: Literal["left", "right", "any"] = "any"
    """Where: behind the first word is `right`-branching, before the last `left`-branching, `any` at random."""


class Grammar(DataKind):
    """Sentences of a small grammar, made on the spot, with their trees and those of several parsers that err."""

    kind: Literal["grammar"] = "grammar"
    builds = "stillhouse.sources.trees:grammar"
    parsers: Annotated[list[Parser], Field(min_length=2)]
    longest: Annotated[int, Field(ge=5, le=20)] = 9
    """Words of a sentence at most."""
    train: Annotated[int, Field(gt=0)] = 600
    """Sentences."""
    validation: Annotated[int, Field(gt=0)] = 150
    test: Annotated[int, Field(gt=0)] = 300


class Scene(DataKind):
    """Gaussians on a plane seen from several cameras, made on the spot, with features of the pixels at three
    granularities, of which views agree on one alone for each object."""

    kind: Literal["scene"] = "scene"
    builds = "stillhouse.sources.scene:scene"
    objects: Annotated[int, Field(ge=2)] = 20
    gaussians: Annotated[int, Field(gt=0)] = 10
    """Of an object."""
    spread: Annotated[float, Field(gt=0)] = 0.04
    """Standard deviation of their places about the object's middle, on a square of width 1."""
    radius: Annotated[float, Field(gt=0)] = 0.02
    """Of a Gaussian."""
    width: Annotated[int, Field(gt=1)] = 8
    """Of the features."""
    views: Annotated[int, Field(gt=1)] = 6
    """Cameras trained on; two more are for validation, and two for test."""
    pixels: Annotated[int, Field(gt=1)] = 24
    """Of a view, each way."""
    conflict: Annotated[float, Field(ge=0)] = 2.0
    """Size of what a view mixes into an object's feature where the granularity does not fit."""
