"""The terms a recipe may name under `by`. Imports no torch.

A kind of this family builds a loss, a function or (where it trains parts of its own) a module: its own
fields beyond those of `TermKind` and `FeatureTerm` are the keyword options of what it names.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from stillhouse.kinds import AnyKind, Kind, Strict
from stillhouse.objectives.gate_kinds import GateKind

LABELS = "labels"
"""The signal that stands for the student's logits, held to the data's labels."""


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
    takes: ClassVar[tuple[str, ...]] = ()
    """Fields of the batch that the loss is given by keyword beside the signals: `labels`, `index`."""
    may_take: ClassVar[tuple[str, ...]] = ()
    """The same, for fields it is given where the batch has them and does without where not."""
    same_shape: ClassVar[bool] = True
    """Whether the loss compares its two sides value by value, so that their shapes must be equal."""
    answers: ClassVar[str | list[str]] = "logits"
    """What of the student is held to the data's labels, where `signal` is `labels`."""
    signal: str | list[str] = "logits"
    """What is compared: `logits`, `labels` (the student's logits against the data's labels), `features.<tap>`, or
    a list of signals, which the loss is given as a list."""
    teacher_signal: str | list[str] | None = None
    """The teacher's signal where it has another name than the student's."""
    weight: float | Ramp = 1.0
    """Any number, of any sign, or a ramp over the stage. With noisy labels, w > 1 for the teacher and 1 - w for the
    labels (Das & Sanghavi 2023, arXiv:2301.13304)."""
    gate: Annotated[GateKind, AnyKind("gate", tag="by")] | None = None
    """A weight for each example, beside the term's own."""
    name: str | None = None
    """What the term is called in logs; by default the signal and the divergence."""

    @property
    def student_signals(self) -> list[str]:
        """What the student has to yield."""
        return self._with_gate("student", _listed(self.answers if self.signal == LABELS else self.signal))

    @property
    def teacher_signals(self) -> list[str]:
        """What the teacher has to yield; nothing where target and gate are the data's labels."""
        return self._with_gate("teacher", [] if self.signal == LABELS else _listed(self.teacher_signal or self.signal))

    @property
    def teacher_temperatures(self) -> set[float]:
        """The temperatures at which the teacher's logits are taken; none where they are not."""
        asked = [] if self.signal == LABELS else _listed(self.teacher_signal or self.signal)
        own = getattr(self, "teacher_temperature", None) or getattr(self, "temperature", 1.0)
        gated = self.gate is not None and "teacher" in self.gate.looks_at
        return ({own} if "logits" in asked else set()) | ({getattr(self.gate, "temperature", 1.0)} if gated else set())

    def ungated(self) -> dict[str, None]:
        """What to change of it where there is no teacher to look at."""
        return {"gate": None} if self.gate is not None and "teacher" in self.gate.looks_at else {}

    def options(self) -> dict[str, Any]:
        """The keyword options of the loss."""
        common = {*TermKind.model_fields, *FeatureTerm.model_fields, self.tag}
        return {field: getattr(self, field) for field in type(self).model_fields if field not in common}

    def _with_gate(self, side: str, signals: list[str]) -> list[str]:
        wanted = self.gate is not None and side in self.gate.looks_at and "logits" not in signals
        return [*signals, "logits"] if wanted else signals


class FeatureTerm(TermKind):
    """A term that may look at the student's features through a train-only projector."""

    project: Literal["linear", "conv", "exit"] | None = None
    """From the student's width to the teacher's, where they differ; `exit` leads from a map or a vector to logits."""


Temperature = Annotated[float, Field(gt=0)]


class KL(TermKind):
    """T^2 KL(teacher || student), Hinton et al. 2015 (arXiv:1503.02531)."""

    by: Literal["kl"] = "kl"
    builds = "stillhouse.objectives.divergences:forward_kl"
    temperature: Temperature = 1.0
    teacher_temperature: Temperature | None = None
    """The teacher's, where it is another than the student's."""
    squared: bool = True
    """Multiply by T^2."""


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


class Distance(FeatureTerm):
    """A mean over all but the batch dimension, and over the classes alone where it is on logits."""

    def options(self) -> dict[str, Any]:
        return super().options() | {"each_position": self.signal == "logits"}


class MSE(Distance):
    """Squared difference, averaged over all but the batch dimension; over the classes where it is on logits."""

    by: Literal["mse"] = "mse"
    builds = "stillhouse.objectives.divergences:mse"


def _listed(signal: str | list[str]) -> list[str]:
    return [signal] if isinstance(signal, str) else signal
