"""The terms a recipe may name under `by`. Imports no torch.

A kind of this family builds a function: its own fields beyond those of `TermKind`
are the keyword options of the function it names.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from stillhouse.kinds import Kind, Strict


class Ramp(Strict):
    """A weight that moves linearly over part of a stage."""

    start: float
    end: float
    over: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the stage after which it stays at `end`."""


class TermKind(Kind):
    """One term of an objective: a signal of the student, held to a target by a divergence."""

    family: ClassVar[str] = "term"
    tag: ClassVar[str] = "by"
    signal: str = "logits"
    """What is compared: `logits`, `labels` (the student's logits against the data's labels), or `features.<tap>`."""
    teacher_signal: str | None = None
    """The teacher's signal where it has another name than the student's."""
    weight: float | Ramp = 1.0
    """Any number, of any sign, or a ramp over the stage."""
    name: str | None = None
    """What the term is called in logs; by default the signal and the divergence."""

    def function(self) -> Any:
        """The loss with this kind's options bound: `(student, target) -> unreduced tensor`."""
        own = {f: getattr(self, f) for f in type(self).model_fields if f not in TermKind.model_fields and f != "by"}
        return partial(self.target(), **own)


Temperature = Annotated[float, Field(gt=0)]


class KL(TermKind):
    """T^2 KL(teacher || student), Hinton et al. 2015 (arXiv:1503.02531)."""

    by: Literal["kl"] = "kl"
    builds = "stillhouse.objectives.divergences:forward_kl"
    temperature: Temperature = 1.0


class ReverseKL(TermKind):
    """T^2 KL(student || teacher): mode-seeking."""

    by: Literal["reverse_kl"] = "reverse_kl"
    builds = "stillhouse.objectives.divergences:reverse_kl"
    temperature: Temperature = 1.0


class GeneralisedJSD(TermKind):
    """The generalised Jensen-Shannon divergence of Agarwal et al. 2024 (arXiv:2306.13649), eq. 1, 0 < beta < 1."""

    by: Literal["jsd"] = "jsd"
    builds = "stillhouse.objectives.divergences:generalised_jsd"
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Weight of the teacher in the mixture."""
    temperature: Temperature = 1.0


class CrossEntropy(TermKind):
    """Cross-entropy of the student's logits against the data's labels: class indices or distributions.

    Against a teacher's distribution it has the gradient of `kl`, which is zero where the two agree.
    """

    by: Literal["cross_entropy"] = "cross_entropy"
    builds = "stillhouse.objectives.divergences:cross_entropy"
    signal: Literal["labels"] = "labels"
    teacher_signal: None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class MSE(TermKind):
    """Squared difference, averaged over all but the batch dimension."""

    by: Literal["mse"] = "mse"
    builds = "stillhouse.objectives.divergences:mse"
    project: Literal["linear", "conv"] | None = None
    """A train-only projector from the student's width to the teacher's, where they differ."""

    def function(self) -> Any:
        """The loss; projecting is the term's part in it."""
        return self.target()
