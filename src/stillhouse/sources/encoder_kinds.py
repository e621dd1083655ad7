"""The data of text encoders: labelled paragraphs, tagged words, and text with masked tokens. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stillhouse.kinds import AnyKind
from stillhouse.sources.kinds import DataKind, TextKind

TOPICS = 10
"""Classes of `docstrings`."""


class Docstrings(TextKind):
    """Paragraphs of the docstrings of Python's standard library; the class is what their module is for.

    Ten classes (numbers, network, mail, markup, concurrency, files, testing, code, settings, text), some five
    thousand paragraphs, each once; those of one docstring are in one split. Nothing is downloaded.
    """

    kind: Literal["docstrings"] = "docstrings"
    builds = "stillhouse.sources.docstrings:docstrings"
    block: Annotated[int, Field(ge=4)] = 40
    """Tokens of an example: a longer paragraph is cut off, a shorter one is padded."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the docstrings kept for the report, drawn once by class with a fixed seed."""
    limit: Annotated[int, Field(ge=TOPICS)] | None = None
    """Training paragraphs kept, of each class its share; None keeps all."""
    read_as: Annotated[TextKind, AnyKind("data")] | None = None
    """Other text, whose vocabulary is taken in place of one of its own: a model reads both."""


class PythonNames(TextKind):
    """The names in statements of Python's standard library, and what each is used as there.

    A statement is its names and keywords alone, without punctuation, numbers and strings; a name is a call, a
    method's call, an attribute, an argument, a definition or a plain name. Nothing is downloaded.
    """

    kind: Literal["python-names"] = "python-names"
    builds = "stillhouse.sources.tagged:python_names"
    block: Annotated[int, Field(ge=4)] = 32
    """Tokens of an example: a longer one is cut off, a shorter one is padded."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the source files kept for the report, drawn once with a fixed seed."""
    lines: Annotated[int, Field(ge=100)] = 10000
    """Statements, evenly spaced among all that have three names or more; each once."""


class Tagged(TextKind):
    """Words with a tag each, from a file of one's own: token classification.

    A tag stands at the first token of its word; other tokens and padding have none.
    """

    kind: Literal["tagged"] = "tagged"
    builds = "stillhouse.sources.tagged:tagged"
    path: Annotated[str, Field(min_length=1)]
    """A .jsonl or .parquet file, a sequence of words in each row; relative to --root."""
    words: str = "tokens"
    """Key or column of the words."""
    tags: str = "tags"
    """Key or column of the tags: as many, as words or as numbers from 0."""
    names: list[str] = []
    """Of tags that are numbers."""
    block: Annotated[int, Field(ge=4)] = 64
    """Tokens of an example: a longer one is cut off, a shorter one is padded."""


class Masked(DataKind):
    """Text with some of its tokens masked, to be guessed: BERT's objective (Devlin et al. 2019, arXiv:1810.04805).

    Of the tokens chosen, eight in ten become the mask, one a token drawn at random, one stays. Training draws
    anew at every fetch; a split that is measured keeps its masks.
    """

    kind: Literal["masked"] = "masked"
    builds = "stillhouse.sources.masked:masked"
    needs: ClassVar[str] = "language"
    of: Annotated[TextKind, AnyKind("data")]
    """The text. Where its vocabulary is trained, it needs `mask: true`."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Of the tokens that are to be guessed."""

    @property
    def origin(self) -> DataKind:
        return self.of.origin
