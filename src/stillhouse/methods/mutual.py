"""Mutual: several networks learn together, each from labels and from what the others answer now.

Papers: Zhang et al. 2018, "Deep Mutual Learning", arXiv:1706.00384, algorithm 1 and eqs. 7-10;
    under other terms Amara et al. 2022, arXiv:2212.12965 (balanced divergences), and Lee et al. 2023,
    arXiv:2311.02849 (co-training and co-distillation of language models).
Algorithm: for each batch, for each network k in turn,
    every other network answers the batch, without gradient;
    step network k on the sum of its terms; a term against the others is their mean, 1 / (K - 1) each.
    So a network that comes later in the order sees the earlier ones already updated on this batch.
Roles: student; peers, networks trained from their own beginnings beside it. No teacher.
Deviations: the others answer in training mode, as they do when they are updated; a batch norm's running
    statistics therefore see every batch once for each network.
Limits: terms that train parts of their own (projectors) are refused. The peers see the student's view.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Signals, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.online_kinds import Mutual as MutualKind
from stillhouse.methods.roles import Roles
from stillhouse.objectives.terms import Terms
from stillhouse.views.model import Model


@dataclass
class Side:
    """One network: its player and its terms."""

    player: Player[Model]
    terms: Terms


class Mutual(Method):
    def __init__(self, kind: MutualKind, roles: Roles) -> None:
        peers = [Model(network.build(roles.facts), roles.student.view) for network in kind.peers]
        self.sides = {"student": Side(Player(roles.student), Terms(kind.terms))}
        for number, peer in enumerate(peers, 1):
            name = "peer" if number == 1 else f"peer_{number}"
            self.sides[name] = Side(Player(peer), Terms(kind.peer_terms or kind.terms))
        for side in self.sides.values():
            side.player.module.to(next(roles.student.parameters()).device)
        self._fit(roles.example)

    def players(self) -> dict[str, Player]:
        return {name: side.player for name, side in self.sides.items()}

    def schedule(self) -> Iterator[Turn]:
        for name in self.sides:
            yield Turn(name, partial(self.update, name), fresh=name == "student")

    def update(self, name: str, batch: Batch, rng: torch.Generator) -> Losses:
        side = self.sides[name]
        own = side.player.module.signals(batch, side.terms.wants)
        others = [self._answers(other, batch, side.terms.asks) for key, other in self.sides.items() if key != name]
        labels, where = side.player.module.view.targets(batch)
        losses = Losses()
        for term in side.terms:
            seen = others if term.teacher_signals else others[:1]  # labels alone: the same against every peer
            found = [term(own, other, labels, where, progress=self.progress, batch=batch) for other in seen]
            losses[term.name if name == "student" else f"{name}/{term.name}"] = _mean(found)
        return losses

    def _answers(self, other: Side, batch: Batch, asks: list[str]) -> Signals:
        with torch.no_grad():
            return other.player.module.signals(batch, asks) if asks else {}

    def _fit(self, example: Batch) -> None:
        """Raises StillhouseError for terms with parts, and where the networks' signals do not fit each other."""
        signals = {}
        for name, side in self.sides.items():
            asked = {signal for other in self.sides.values() for signal in other.terms.asks} | set(side.terms.wants)
            mode = side.player.module.training
            side.player.module.eval()
            signals[name] = self._answers(side, example, sorted(asked))
            side.player.module.train(mode)
        for name, side in self.sides.items():
            for term in side.terms:
                others = [signals[key] for key in self.sides if key != name]
                if any(term.part(signals[name], other) is not None for other in others):
                    raise StillhouseError(
                        f"mutual takes terms with nothing to train, and {term.name!r} has parts: "
                        "leave out its projector, or compare signals of one width"
                    )


def _mean(found: list[Loss]) -> Loss:
    """The mean over the peers of one term's values."""
    return replace(found[0], values=torch.stack([loss.values for loss in found]).mean(0))
