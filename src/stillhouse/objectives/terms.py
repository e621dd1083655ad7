"""A term at work: a signal of the student held to its target by a divergence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from stillhouse.engine.contracts import Loss, Signals
from stillhouse.errors import StillhouseError
from stillhouse.objectives.kinds import Ramp, TermKind
from stillhouse.objectives.projectors import projector

LABELS = "labels"


class Term:
    """`kind` with its function bound, the signals it needs, and its train-only projector's name."""

    def __init__(self, kind: TermKind, name: str) -> None:
        self.kind, self.name = kind, name
        self.function: Callable[[Tensor, Tensor], Tensor] = kind.function()
        self.student_signal = "logits" if kind.signal == LABELS else kind.signal
        self.teacher_signal = None if kind.signal == LABELS else (kind.teacher_signal or kind.signal)

    def weight(self, progress: float) -> float:
        """The weight at this share of the stage."""
        weight = self.kind.weight
        if isinstance(weight, Ramp):
            return weight.start + (weight.end - weight.start) * min(1.0, progress / weight.over)
        return weight

    def part(self, student: Signals, teacher: Signals) -> nn.Module | None:
        """The projector this term trains, sized by one batch of signals. Raises StillhouseError on a misfit."""
        if self.teacher_signal is None:
            return None
        ours, theirs = student[self.student_signal], teacher[self.teacher_signal]
        how = getattr(self.kind, "project", None)
        if how is not None:
            return projector(how, ours, theirs)
        if ours.shape != theirs.shape:
            raise StillhouseError(
                f"term {self.name!r}: the student's {self.student_signal} has shape {tuple(ours.shape)}, the teacher's "
                f"{self.teacher_signal} {tuple(theirs.shape)}. {_advice(self.student_signal)}"
            )
        return None

    def __call__(
        self,
        student: Signals,
        teacher: Signals,
        labels: Tensor | None,
        where: Tensor | None,
        *,
        progress: float = 0.0,
        parts: Mapping[str, nn.Module] | None = None,
    ) -> Loss:
        """The unreduced loss of a batch."""
        ours = student[self.student_signal]
        if parts and self.name in parts:
            ours = parts[self.name](ours)
        target = labels if self.teacher_signal is None else teacher[self.teacher_signal]
        assert target is not None, "a labels term needs labels"
        values = self.function(ours, target)
        return Loss(values, weight=self.weight(progress), where=where)


def build_terms(kinds: Sequence[TermKind]) -> list[Term]:
    """Terms with distinct names: the given ones, else `<signal>.<divergence>`."""
    terms: list[Term] = []
    taken: set[str] = set()
    for kind in kinds:
        base = kind.name or f"{kind.signal}.{kind.word}"
        name, count = base.replace(".", "/"), 2
        while name in taken:
            name, count = f"{base.replace('.', '/')}-{count}", count + 1
        taken.add(name)
        terms.append(Term(kind, name))
    return terms


def _advice(signal: str) -> str:
    if signal == "logits":
        return (
            "Teacher and student must tell apart the same classes, or read the same vocabulary: "
            "give both the same data and tokenizer"
        )
    return "Set `project: linear` (vectors) or `project: conv` (feature maps), or tap layers of the same width"
