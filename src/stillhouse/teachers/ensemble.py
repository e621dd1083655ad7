"""Several frozen networks as one teacher."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Batch, Signals
from stillhouse.errors import StillhouseError
from stillhouse.store.identity import Identity, weights_hash
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.model import Model

LOGITS = "logits"


class Ensemble(Frozen):
    """Members by name. `logits` are the log of the mean of their probabilities; `<member>.<signal>` is one member's.

    Hinton et al. 2015 (arXiv:1503.02531), section 1: the arithmetic mean of the members' predictions. It is taken at
    temperature 1; a term's temperature then acts on its logarithm.

    Args:
        members: models that answer on the same classes; each keeps its own view.
        shares: their weights in the mean, any positive numbers; None: all alike.
    """

    def __init__(self, members: Mapping[str, Model], shares: Sequence[float] | None = None) -> None:
        first = next(iter(members.values()))
        networks = nn.ModuleDict({name: member.network for name, member in members.items()})
        super().__init__(Model(networks, first.view))
        self.members = {name: Frozen(member) for name, member in members.items()}
        weights = [1.0] * len(members) if shares is None else list(shares)
        self.shares = [weight / sum(weights) for weight in weights]

    @property
    def identity(self) -> Identity:
        """Of all members' weights and views, and of their shares: what its answers depend on."""
        views = "; ".join(f"{name}: {member.view.fingerprint}" for name, member in self.members.items())
        return Identity(weights_hash(self.network), f"{views}; shares {self.shares}")

    def signals(self, batch: Batch, wants: Iterable[str] = (LOGITS,)) -> Signals:
        """The wanted signals; each member is asked once. Where none is wanted the logits are given.

        Raises StillhouseError for a signal that a member does not yield.
        """
        wants = tuple(wants) or (LOGITS,)
        asked = {name: [w.removeprefix(f"{name}.") for w in wants if w.startswith(f"{name}.")] for name in self.members}
        if LOGITS in wants:
            asked = {name: [*own, LOGITS] for name, own in asked.items()}
        given = {name: self.members[name].signals(batch, own) for name, own in asked.items() if own}
        found = {f"{name}.{signal}": value for name, own in given.items() for signal, value in own.items()}
        if LOGITS in wants:
            found[LOGITS] = self._mean([own[LOGITS] for own in given.values()])
        missing = [want for want in wants if want not in found]
        if missing:
            raise StillhouseError(
                f"an ensemble yields {LOGITS!r} and '<member>.<signal>' of {', '.join(self.members)}; "
                f"it yields no {', '.join(map(repr, missing))}"
            )
        return found

    def _mean(self, logits: list[Tensor]) -> Tensor:
        """log sum_m share_m softmax(logits_m): [B, ..., C] each."""
        log_p = [one.float().log_softmax(-1) + math.log(share) for one, share in zip(logits, self.shares, strict=True)]
        return torch.stack(log_p).logsumexp(0)
