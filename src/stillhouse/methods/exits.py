"""Exits: a network's last answer and those after lower layers teach each other.

Papers: Zhang et al. 2019, "Be Your Own Teacher", arXiv:1905.08094, section 3: the end teaches the exits;
    Park et al. 2024, "Self-Knowledge Distillation for Learning Ambiguity", arXiv:2406.09719: the exits teach the end,
    which is held back where they find an example ambiguous (a term with `gate: {by: entropy, favours: uncertain}`).
Algorithm: for each batch, one forward pass gives the last logits and those of every exit; step on the sum of
    `terms`, the last logits against the labels and each exit, a mean over the exits, and
    `exit_terms`, each exit's logits against the labels and the last, a mean over the exits.
    Whoever is in the teacher's place takes no gradient.
Roles: student; its exits are train-only parts, a linear layer behind a vector, an average and a linear layer behind
    tokens, a small branch behind a feature map. No teacher.
Deviations: of the first paper, its hints on features are left out. Of the second, how an example is weighed by its
    ambiguity is the gate's: the text gives the idea.
Limits: terms on logits and labels; terms that train parts of their own are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Signals, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.roles import Roles
from stillhouse.methods.self_kinds import Exits as Kind
from stillhouse.objectives.projectors import exit_branch
from stillhouse.objectives.terms import Term, of_logits
from stillhouse.views.model import FEATURES


class Exits(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        self.terms, self.exit_terms = (of_logits(terms, kind.word) for terms in (kind.terms, kind.exit_terms))
        self.taps = {path.replace(".", "/"): FEATURES + path for path in kind.exits}
        seen = roles.look(["logits", *self.taps.values()])
        exits = {name: _way_out(seen[tap], seen["logits"]) for name, tap in self.taps.items()}
        self.student = Player(roles.student, parts=exits)

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        found = self.student.module.signals(batch, ["logits", *self.taps.values()])
        end = {"logits": found["logits"]}
        exits = [{"logits": self.student.parts[name](found[tap])} for name, tap in self.taps.items()]
        labels, where = self.student.module.view.targets(batch)

        def mean(term: Term, pairs: list[tuple[Signals, Signals]]) -> Loss:
            found = [term(own, _held(of), labels, where, progress=self.progress, batch=batch) for own, of in pairs]
            return replace(found[0], values=torch.stack([loss.values for loss in found]).mean(0))

        losses = Losses()
        for term in self.terms:
            losses[term.name] = mean(term, [(end, way) for way in exits])
        for term in self.exit_terms:
            losses[f"exits/{term.name}"] = mean(term, [(way, end) for way in exits])
        return losses


def _held(signals: Signals) -> Signals:
    return {name: value.detach() for name, value in signals.items()}


def _way_out(features: Tensor, logits: Tensor) -> nn.Module:
    """From a layer's output, [B, D], [B, T, D] or [B, C, H, W], to logits [B, V]."""
    if logits.dim() != 2:
        raise StillhouseError(f"'exits' is for classifiers, with logits [B, V]; these are {list(logits.shape)}")
    if features.dim() == 4:
        return exit_branch(features, logits)
    head = nn.Linear(features.shape[-1], logits.shape[-1])
    return head if features.dim() == 2 else nn.Sequential(OverTokens(), head)


class OverTokens(nn.Module):
    """The mean over tokens: [B, T, D] to [B, D]."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)
