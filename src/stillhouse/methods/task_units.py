"""Task units: features matched to the teacher's units that matter to the task, without a projector.

Paper: Saadi & Wang 2025, "Task-Based Flexible Feature Distillation for LLMs" (Flex-KD), arXiv:2507.10155.
Algorithm: before the first step, unit m of the teacher's layer has the score
        s_m = mean over examples and positions of |d log p(label) / d h_m|;
    the units with the highest scores, as many as the student's layer has, in the order of their numbers, are what
    every term on that layer holds the student to. Then `match`.
Roles: student; teacher, one live network.
Deviations: any layers and any divergence a term names; the paper takes the last hidden layer. Scores are of the
    teacher's log-probability of the label.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Batch
from stillhouse.errors import StillhouseError
from stillhouse.methods.feature_kinds import TaskUnits as TaskUnitsKind
from stillhouse.methods.match import Match
from stillhouse.methods.roles import Roles
from stillhouse.objectives.kinds import TermKind
from stillhouse.taps.hooks import tapped
from stillhouse.teachers.frozen import Frozen, one_network
from stillhouse.views.model import FEATURES, Model


class TaskUnits(Match):
    def __init__(self, kind: TaskUnitsKind, roles: Roles) -> None:
        teacher = one_network(roles.teacher, "task-units")
        pairs = {theirs: ours for term in kind.terms for ours, theirs in zip(*_tapped(term), strict=True)}
        if not pairs:
            raise StillhouseError("method 'task-units' needs a term on `features.<tap>`; without one it is `match`")
        widths = {theirs: _units(roles.look([ours])[ours]) for theirs, ours in pairs.items()}
        self.units = {signal: self._chosen(kind, roles, teacher, signal, count) for signal, count in widths.items()}
        super().__init__(kind, replace(roles, teacher=_Narrowed(teacher, self.units)))

    def _chosen(self, kind: TaskUnitsKind, roles: Roles, teacher: Frozen, signal: str, count: int) -> Tensor:
        there = _units(teacher.signals(roles.example, [signal])[signal])
        if count > there:
            raise StillhouseError(
                f"the teacher's {signal} has {there} units and the student's {count}: none to leave out"
            )
        if kind.choose == "random":
            return torch.randperm(there)[:count].sort().values
        scores = [relevance(teacher, signal, batch) for batch in islice(roles.everything(), kind.batches)]
        return torch.stack(scores).mean(0).topk(count).indices.sort().values


class _Narrowed(nn.Module):
    """A teacher some of whose features are some of their units."""

    def __init__(self, teacher: Frozen, units: dict[str, Tensor]) -> None:
        super().__init__()
        self.teacher, self.units = teacher, units

    def signals(self, batch: Batch, wants: tuple[str, ...] = ("logits",)) -> dict[str, Tensor]:
        """The teacher's; of the chosen layers [B, ..., d] or [B, d, H, W]."""
        signals = self.teacher.signals(batch, wants)
        for name in self.units.keys() & signals.keys():
            value = signals[name]
            signals[name] = value.index_select(1 if value.dim() == 4 else -1, self.units[name].to(value.device))
        return signals


def relevance(teacher: Frozen, signal: str, batch: Batch) -> Tensor:
    """The scores of a layer's units on a batch, [D]. The teacher stays as it is."""
    kept: list[Tensor] = []

    def watched(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    handle = tapped(teacher.network, signal.removeprefix(FEATURES)).register_forward_hook(watched)
    try:
        with torch.enable_grad():
            logits = Model.signals(teacher, batch)["logits"]  # not the frozen one's: gradients reach the layer
            labels, where = teacher.view.targets(batch)
            chosen = logits.float().log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
            told = chosen.sum() if where is None else chosen[where].sum()
            (gradient,) = torch.autograd.grad(told, kept)
    finally:
        handle.remove()
    last = gradient.movedim(1, -1) if gradient.dim() == 4 else gradient
    return last.abs().flatten(0, -2).mean(0)


def _tapped(term: TermKind) -> tuple[list[str], list[str]]:
    """The student's and the teacher's features that a term compares, layer by layer."""
    both = (term.signal, term.teacher_signal or term.signal)
    sides = [[side] if isinstance(side, str) else side for side in both]
    if not all(name.startswith(FEATURES) for side in sides for name in side):
        return [], []
    return sides[0], sides[1]


def _units(features: Tensor) -> int:
    return features.shape[1] if features.dim() == 4 else features.shape[-1]
