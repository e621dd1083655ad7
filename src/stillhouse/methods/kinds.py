"""The methods a recipe may name. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from stillhouse.engine.settings import Positive
from stillhouse.kinds import AnyKind, Kind
from stillhouse.objectives import (
    detection_kinds,  # noqa: F401  importing registers
    feature_kinds,  # noqa: F401  importing registers
    logit_kinds,  # noqa: F401  importing registers
    relation_kinds,  # noqa: F401  importing registers
)
from stillhouse.objectives.kinds import ReverseKL, TermKind

Term = Annotated[TermKind, AnyKind("term", tag="by")]


class MethodKind(Kind):
    """Who is updated when: `build(roles)` gives a `stillhouse.engine.contracts.Method`."""

    family: ClassVar[str] = "method"

    @property
    def asks_teacher(self) -> bool:
        """Whether a stage with this method needs its teacher's answers."""
        return True

    def without_teacher(self) -> MethodKind | None:
        """The method of the control arm: the same student and budget, no teacher. None: the recipe must say it."""
        return None


class Match(MethodKind):
    """A weighted sum of terms between the student's signals and the teacher's: most of knowledge distillation."""

    kind: Literal["match"] = "match"
    builds = "stillhouse.methods.match:Match"
    terms: Annotated[list[Term], Field(min_length=1)]

    @property
    def asks_teacher(self) -> bool:
        return any(term.teacher_signals for term in self.terms)

    def without_teacher(self) -> Match:
        from stillhouse.objectives.kinds import CrossEntropy

        own = [t.model_copy(update={"weight": 1.0} | t.ungated()) for t in self.terms if t.signal == "labels"]
        return Match(terms=own or [CrossEntropy(signal="labels")])


class GKD(MethodKind):
    """Generalised knowledge distillation of language models (Agarwal et al. 2024, arXiv:2306.13649)."""

    kind: Literal["gkd"] = "gkd"
    builds = "stillhouse.methods.gkd:GKD"
    student_data_fraction: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The paper's lambda: the share of batches on which the student writes, the others being data."""
    divergence: Term = ReverseKL()
    """Between the two next-token distributions: `kl`, `reverse_kl` or `jsd`."""
    prompt: Annotated[int, Field(gt=0)] = 16
    """Tokens of a block that the student goes on from."""
    rollout: Annotated[int, Field(gt=0)] = 32
    """Tokens it writes, fewer where it ends the text."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the student's sampling; the divergence has a temperature of its own."""

    @field_validator("divergence")
    @classmethod
    def _of_logits(cls, term: TermKind) -> TermKind:
        if term.signal != "logits":
            raise ValueError(f"a divergence of next-token distributions is on logits, not on {term.signal!r}")
        return term

    def without_teacher(self) -> Match:
        from stillhouse.objectives.kinds import CrossEntropy

        return Match(terms=[CrossEntropy(signal="labels")])


class Denoise(MethodKind):
    """A diffusion model trained on data alone (Karras et al. 2022, arXiv:2206.00364)."""

    kind: Literal["denoise"] = "denoise"
    builds = "stillhouse.methods.denoise:Denoise"
    log_mean: float = -1.2
    """Of the logarithm of the noise levels trained on: the paper's P_mean."""
    log_std: Positive = 1.2
    """Of the same: P_std."""

    def without_teacher(self) -> Denoise:
        return self


class DMD(MethodKind):
    """Distribution matching: a one-step generator and an online fake score, at two time scales.

    Yin et al. 2024 (arXiv:2311.18828 and arXiv:2405.14867).
    """

    kind: Literal["dmd"] = "dmd"
    builds = "stillhouse.methods.dmd:DMD"
    critic_updates: Annotated[int, Field(gt=0)] = 5
    """Updates of the fake score to one of the generator."""
    sigma_min: Positive = 0.002
    """Least noise at which the two distributions are compared."""
    sigma_max: Positive = 80.0
    """Most noise at which they are."""
