"""The methods a recipe may name. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stillhouse.kinds import AnyKind, Kind
from stillhouse.objectives.kinds import TermKind

Term = Annotated[TermKind, AnyKind("term", tag="by")]


class MethodKind(Kind):
    """Who is updated when: `build(roles)` gives a `stillhouse.engine.contracts.Method`."""

    family: ClassVar[str] = "method"

    def without_teacher(self) -> MethodKind | None:
        """The method of the control arm: the same student and budget, no teacher. None: the recipe must say it."""
        return None


class Match(MethodKind):
    """A weighted sum of terms between the student's signals and the teacher's: most of knowledge distillation."""

    kind: Literal["match"] = "match"
    builds = "stillhouse.methods.match:Match"
    terms: Annotated[list[Term], Field(min_length=1)]

    def without_teacher(self) -> Match:
        from stillhouse.objectives.kinds import CrossEntropy

        own = [t.model_copy(update={"weight": 1.0}) for t in self.terms if t.signal == "labels"]
        return Match(terms=own or [CrossEntropy(signal="labels")])
