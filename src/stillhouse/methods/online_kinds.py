"""The methods of online learning and self-distillation that a recipe may name. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.kinds import AnyKind
from stillhouse.methods.kinds import Match, MethodKind, Term
from stillhouse.networks.kinds import NetworkKind


class Mutual(MethodKind):
    """Networks trained together, each on its own terms towards the others (Zhang et al. 2018, arXiv:1706.00384).

    The peers are players: `train.players.peer` (then `peer_2`, ...) sets what one does otherwise. The student alone
    is handed over and exported; to measure a peer, give an arm that network as its student.
    """

    kind: Literal["mutual"] = "mutual"
    builds = "stillhouse.methods.mutual:Mutual"
    peers: Annotated[list[Annotated[NetworkKind, AnyKind("network")]], Field(min_length=1)]
    """The networks trained beside the student, from their own beginnings, under the student's view."""
    terms: Annotated[list[Term], Field(min_length=1)]
    """The student's, with a peer in the teacher's place: each is averaged over the peers."""
    peer_terms: Annotated[list[Term], Field(min_length=1)] | None = None
    """A peer's own, with the student (and the other peers) in the teacher's place; None: the student's."""

    def without_teacher(self) -> Match:
        return Match(terms=self.terms).without_teacher()
