"""The methods by which a network teaches itself. Imports no torch."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from stillhouse.engine.settings import Positive
from stillhouse.methods.kinds import Match, MethodKind, Term
from stillhouse.objectives.kinds import CrossEntropy


class SelfTaught(MethodKind):
    """What they share: terms of the student with itself in the teacher's place."""

    terms: Annotated[list[Term], Field(min_length=1)]

    @property
    def asks_teacher(self) -> bool:
        return False

    def without_teacher(self) -> Match:
        return Match(terms=self.terms).without_teacher()


class Exits(SelfTaught):
    """A classifier with a way out after some of its layers, each end learning from the other.

    Zhang et al. 2019 (be your own teacher, arXiv:1905.08094): the exits learn from the end (`exit_terms`).
    Park et al. 2024 (arXiv:2406.09719): the end learns from the exits (`terms`). The exits are gone at export.
    """

    kind: Literal["exits"] = "exits"
    builds = "stillhouse.methods.exits:Exits"
    exits: Annotated[list[str], Field(min_length=1)]
    """Module paths of the layers whose outputs lead out."""
    exit_terms: Annotated[list[Term], Field(min_length=1)]
    """Of every exit's logits, the end in the teacher's place."""


class LastVisit(SelfTaught):
    """A network is held to what it said of the same example when it saw it last.

    Kim et al. 2021 (PS-KD, arXiv:2006.12000); with every example seen again in the next batch, Shen et al. 2022 (DLB,
    arXiv:2203.16172). A term with a teacher says nothing of an example that is seen for the first time.
    """

    kind: Literal["last-visit"] = "last-visit"
    builds = "stillhouse.methods.last_visit:LastVisit"


class Average(SelfTaught):
    """A network is held to what the moving average of its weights says, of another image where there are two.

    Tarvainen & Valpola 2017 (mean teachers, arXiv:1703.01780). Kept and exported is the average.
    """

    kind: Literal["average"] = "average"
    builds = "stillhouse.methods.average:Average"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Of the average; 0: the weights as they are."""
    teacher_sees: str = "image"
    """The field of the batch whose image the average is shown; `second_image` of data with two."""


class SDFT(MethodKind):
    """Fine-tuning on answers that the model itself rewrote from the gold ones (Yang et al. 2024, arXiv:2402.13669).

    The teacher is the student before it is fine-tuned: `student.weights: teacher`.
    """

    kind: Literal["sdft"] = "sdft"
    builds = "stillhouse.methods.sdft:SDFT"
    answer: str
    """A regular expression for what counts in an answer: a rewriting is kept where it has the gold answer's matches,
    in their order and whatever their case."""
    length: Annotated[int, Field(gt=0)]
    """Tokens of a rewriting at most; one that does not end by then is not kept."""
    temperature: Positive = 1.0
    """Of the sampling."""

    @field_validator("answer")
    @classmethod
    def _is_a_pattern(cls, answer: str) -> str:
        try:
            re.compile(answer)
        except re.error as error:
            raise ValueError(f"{answer!r} is no regular expression: {error}") from error
        return answer

    def without_teacher(self) -> Match:
        return Match(terms=[CrossEntropy()])
