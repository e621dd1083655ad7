"""Data made on the spot: sentences of a grammar, a scene of Gaussians, drawn characters. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

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


class Glyphs(DataKind):
    """Characters drawn on the spot in the typefaces that matplotlib carries, each distorted in a way of its own.

    Many classes, some of them hard to tell apart, and as many images as one asks for.
    """

    kind: Literal["glyphs"] = "glyphs"
    builds = "stillhouse.sources.glyphs:glyphs"
    characters: Annotated[str, Field(min_length=2)] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    """A class each."""
    fonts: Annotated[list[str], Field(min_length=1)] = ["DejaVuSans*", "DejaVuSerif*", "STIXGeneral*", "cm[brst][!y]*"]
    """Patterns of typefaces' names; the number of the pattern is an image's `domain`."""
    test_fonts: list[str] = []
    """Of validation and test, where they are not those of training (`domain` is -1 there)."""
    size: Annotated[int, Field(ge=8, le=64)] = 16
    """Of an image, each way."""
    train: Annotated[int, Field(gt=0)] = 8000
    """Images."""
    validation: Annotated[int, Field(gt=0)] = 2000
    test: Annotated[int, Field(gt=0)] = 5000
    distortion: Annotated[float, Field(ge=0, le=2)] = 0.7
    """1: turned by up to 15 degrees, moved by a tenth of the image, stretched by a fifth, slanted, blurred, paled."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Standard deviation of what is added to each pixel."""
    shift: Annotated[int, Field(ge=0, le=3)] = 1
    """Training images are moved by up to this many pixels each way."""
    seed: Annotated[int, Field(ge=0, lt=2**29)] = 0

    @field_validator("characters")
    @classmethod
    def _each_once(cls, characters: str) -> str:
        if twice := sorted({c for c in characters if characters.count(c) > 1}):
            raise ValueError(f"{', '.join(twice)} stands there twice; a character is one class")
        return characters


class Instructions(DataKind):
    """Small tasks on strings of letters, put in words and answered in words, for a language model that assists.

    The skills it is to know (`copy`, `reverse`, `rotate`, `swap`) are answered in its own way, as is what it is asked
    to rewrite: a reference in another style, whatever that says. A new skill (`next`, each letter's successor) comes
    with gold answers in that other style. Validation and test hold both, half of each.
    """

    kind: Literal["instructions"] = "instructions"
    builds = "stillhouse.sources.instructions:instructions"
    needs: ClassVar[str] = "language"
    skills: Literal["known", "new"]
    """What the training split is of: the known skills and rewriting, or the new skill."""
    letters: Annotated[int, Field(ge=2, le=6)] = 5
    """Of a string."""
    rare: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Among `known` instructions, the share of the new skill, which the assistant then knows a little."""
    train: Annotated[int, Field(gt=0)] = 4000
    """Examples; no string of validation or test is among them."""
    validation: Annotated[int, Field(gt=1)] = 400
    test: Annotated[int, Field(gt=1)] = 1000

    @model_validator(mode="after")
    def _enough_strings(self) -> Instructions:
        if (held_out := self.validation + self.test) > (there := 8**self.letters // 2):
            raise ValueError(
                f"{held_out} strings to be held out are more than half of those of {self.letters} letters: "
                f"make 'test' smaller, so that both together stay below {there}, or 'letters' larger"
            )
        return self
