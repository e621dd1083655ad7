"""A term at work: signals of the student held to their target by a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Batch, Loss, Losses, Signals
from stillhouse.errors import StillhouseError
from stillhouse.objectives.features import Sides, many
from stillhouse.objectives.gate_kinds import GateKind
from stillhouse.objectives.kinds import LABELS, Ramp, TermKind
from stillhouse.objectives.projectors import projector


class Term:
    """A kind with its loss bound, the signals it needs, and the name of its train-only part.

    A loss is a function `(student, target, **options)` that gives one value an example (or token),
    or a module class, built as `Loss(student, target, **options)` from one batch of signals, whose
    `forward(student, target)` gives the values and whose parameters are trained with the student.
    What the kind `takes` of the batch is given by keyword.
    """

    def __init__(self, kind: TermKind, name: str) -> None:
        self.kind, self.name = kind, name
        target = kind.target()
        self.trains = isinstance(target, type) and issubclass(target, nn.Module)
        self.function = partial(target, **kind.options())
        self.on_labels = kind.signal == LABELS
        self._student_asks = kind.answers if self.on_labels else kind.signal
        self._teacher_asks = kind.teacher_signal or kind.signal
        self.student_signals, self.teacher_signals = kind.student_signals, kind.teacher_signals
        self.gate = None if kind.gate is None else Gate(kind.gate, name)

    def weight(self, progress: float) -> float:
        """The weight at this share of the stage."""
        weight = self.kind.weight
        if isinstance(weight, Ramp):
            return weight.start + (weight.end - weight.start) * min(1.0, progress / weight.over)
        return weight

    def part(self, student: Signals, teacher: Signals) -> nn.Module | None:
        """What this term trains, sized by one batch of signals. Raises StillhouseError on a misfit."""
        if self.on_labels:
            return None
        ours, theirs = _taken(student, self._student_asks), _taken(teacher, self._teacher_asks)
        if self.trains:
            return self.function(ours, theirs)
        how = getattr(self.kind, "project", None)
        if how is not None:
            pairs = list(zip(many(ours), many(theirs), strict=True))
            return nn.ModuleList(projector(how, own, other) for own, other in pairs)
        if self.kind.same_shape:
            asked = [self._student_asks] if isinstance(self._student_asks, str) else self._student_asks
            for signal, own, other in zip(asked, many(ours), many(theirs), strict=True):
                if own.shape != other.shape:
                    raise StillhouseError(
                        f"term {self.name!r}: the student's {signal} has shape {tuple(own.shape)}, the teacher's "
                        f"{tuple(other.shape)}. {_advice(signal)}"
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
        batch: Batch | None = None,
    ) -> Loss:
        """The unreduced loss of a batch. `where` says which answers count; features all do."""
        ours = _taken(student, self._student_asks)
        target = labels if self.on_labels else _taken(teacher, self._teacher_asks)
        assert target is not None, "a labels term needs labels"
        fields = self._fields(labels, batch) if self.kind.takes or self.kind.may_take else {}
        part = parts.get(self.name) if parts else None
        if self.trains:
            assert part is not None, f"term {self.name!r} was given no part to train"
            values = part(ours, target, **fields)
        else:
            values = self.function(_projected(part, ours), target, **fields)
        if self.gate is not None:
            values = self.gate(values, student, teacher, labels)
        of_answers = self._student_asks in ("logits", ["logits"])
        return Loss(values, weight=self.weight(progress), where=where if of_answers else None)

    def _fields(self, labels: Tensor | None, batch: Batch | None) -> dict[str, Tensor]:
        given = (batch or {}) | ({} if labels is None else {LABELS: labels})
        missing = [field for field in self.kind.takes if field not in given]
        if missing:
            raise StillhouseError(f"term {self.name!r} needs {', '.join(missing)}, and the batch has none")
        return {field: given[field] for field in (*self.kind.takes, *self.kind.may_take) if field in given}


class Gate:
    """A gate at work: the values of a term, each times a weight that has no gradient."""

    def __init__(self, kind: GateKind, term: str) -> None:
        self.looks_at, self.term = kind.looks_at, term
        self.function = partial(kind.target(), **kind.options)

    def __call__(self, values: Tensor, student: Signals, teacher: Signals, labels: Tensor | None) -> Tensor:
        given = {"student": student.get("logits"), "teacher": teacher.get("logits"), LABELS: labels}
        seen = [given[name] for name in self.looks_at]
        if any(one is None for one in seen):
            raise StillhouseError(
                f"the gate of term {self.term!r} looks at {', '.join(self.looks_at)}, and one is missing"
            )
        with torch.no_grad():
            weights = self.function(*seen)
        if weights.shape != values.shape:
            raise StillhouseError(
                f"the gate of term {self.term!r} gives weights of shape {tuple(weights.shape)} and the term values of "
                f"shape {tuple(values.shape)}: a gate fits a term of one value an example (or token)"
            )
        return values * weights


class Terms(list[Term]):
    """Terms with distinct names: the given ones, else `<signal>.<divergence>`."""

    def __init__(self, kinds: Sequence[TermKind]) -> None:
        super().__init__()
        taken: set[str] = set()
        for kind in kinds:
            base = kind.name or f"{_title(kind)}.{kind.word}"
            name, count = base.replace(".", "/"), 2
            while name in taken:
                name, count = f"{base.replace('.', '/')}-{count}", count + 1
            taken.add(name)
            self.append(Term(kind, name))

    @property
    def wants(self) -> list[str]:
        """The signals that the student has to yield."""
        return sorted({signal for term in self for signal in term.student_signals})

    @property
    def asks(self) -> list[str]:
        """The signals that the teacher has to yield."""
        return sorted({signal for term in self for signal in term.teacher_signals})

    def parts(self, student: Signals, teacher: Signals) -> dict[str, nn.Module]:
        """What the terms train, by their names, sized by one batch of signals. Raises StillhouseError on a misfit."""
        parts = {term.name: term.part(student, teacher) for term in self}
        return {name: part for name, part in parts.items() if part is not None}

    def losses(
        self, student: Signals, teacher: Signals, labels: Tensor | None, where: Tensor | None, **given: Any
    ) -> Losses:
        """Every term's loss of a batch; `given` as a term takes it."""
        return Losses({term.name: term(student, teacher, labels, where, **given) for term in self})


def _title(kind: TermKind) -> str:
    return kind.signal if isinstance(kind.signal, str) else "+".join(kind.signal)


def _taken(signals: Signals, asked: str | list[str]) -> Sides:
    """One tensor for one name, a list for a list."""
    return signals[asked] if isinstance(asked, str) else [signals[name] for name in asked]


def _projected(part: nn.Module | None, ours: Sides) -> Sides:
    if part is None:
        return ours
    assert isinstance(part, nn.ModuleList)
    projected = [one(own) for one, own in zip(part, many(ours), strict=True)]
    return projected[0] if isinstance(ours, Tensor) else projected


def _advice(signal: str) -> str:
    if signal == "logits":
        return (
            "Teacher and student must tell apart the same classes, or read the same vocabulary: "
            "give both the same data and tokenizer"
        )
    return "Set `project: linear` (vectors) or `project: conv` (feature maps), or tap layers of the same width"


def of_logits(kinds: Sequence[TermKind], method: str) -> Terms:
    """Terms of logits and labels. Raises StillhouseError for others, and for those that train parts of their own."""
    terms = Terms(kinds)
    for term in terms:
        if {*term.student_signals, *term.teacher_signals} - {"logits"} or term.trains:
            raise StillhouseError(
                f"{method!r} takes terms on logits and labels with nothing to train; {term.name!r} is none"
            )
    return terms
