"""Whether two terms pull the parameters of a trained network's head, and those before it, the same way."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Signals
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.kinds import HeadConflict
from stillhouse.objectives.terms import Term, Terms


def head_conflict(kind: HeadConflict, arm: Arm, context: Context) -> Findings:
    """Cosine of the two terms' gradients, each summed over the training split as it is, by part of the network.

    Nothing for the teacher itself. Raises StillhouseError without a teacher, without such a head, and for terms that
    train parts of their own.
    """
    if arm.name == "teacher":
        return Findings()
    if "teacher" not in context.arms:
        raise StillhouseError("head-conflict compares terms on a teacher, and this run has none: leave it out")
    network = arm.model.network
    names = [name for name, _ in network.named_parameters()]
    inside = [name.startswith(f"{kind.head}.") for name in names]
    if not any(inside) or all(inside):
        raise StillhouseError(f"head-conflict: {kind.head!r} does not name one part of {arm.name}: {names}")
    first, second = (_gradient(term, network, arm, context) for term in Terms(kind.terms))
    cosines = {}
    for metric, part in (("head_cosine", True), ("backbone_cosine", False)):
        ours, theirs = (_flat(side, inside, part) for side in (first, second))
        cosines[metric] = functional.cosine_similarity(ours, theirs, dim=0).item()
    return Findings(metrics=cosines)


def _gradient(term: Term, network: nn.Module, arm: Arm, context: Context) -> list[Tensor]:
    """The gradient of the term's sum over the training split, by parameter."""
    if term.trains or getattr(term.kind, "project", None) is not None:
        raise StillhouseError(f"head-conflict: term {term.name!r} trains parts of its own, which are gone")
    parameters = list(network.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    teacher = context.arms["teacher"].model
    with measuring(arm.model):
        for batch in batches(context.data.train, context.batch_size, context.device):
            theirs: Signals = teacher.signals(batch, term.teacher_signals) if term.teacher_signals else {}
            with torch.enable_grad():
                ours = arm.model.signals(batch, term.student_signals)
                labels, where = arm.model.view.targets(batch)
                loss = term(ours, theirs, labels, where, batch=batch)
                found = torch.autograd.grad(loss.values.sum(), parameters, allow_unused=True)
            total = [t if g is None else t + g for t, g in zip(total, found, strict=True)]
    return total


def _flat(gradient: list[Tensor], inside: list[bool], part: bool) -> Tensor:
    return torch.cat([g.flatten().double() for g, within in zip(gradient, inside, strict=True) if within is part])
