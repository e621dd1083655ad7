"""The methods of online learning and self-distillation that a recipe may name. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stillhouse.engine.settings import Fraction, Positive
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

    @property
    def asks_teacher(self) -> bool:
        return False

    def without_teacher(self) -> Match:
        return Match(terms=self.terms).without_teacher()


class StableKD(MethodKind):
    """Block-wise distillation whose blocks are put together again one by one (Kao et al. 2023, arXiv:2312.13223)."""

    kind: Literal["stable"] = "stable"
    builds = "stillhouse.methods.stable:StableKD"
    blocks: Annotated[list[str], Field(min_length=1)]
    """Module paths of the student at whose outputs it is cut, in the order of the forward pass."""
    teacher_blocks: list[str] = []
    """The teacher's modules that stand for them; none: those of the same paths."""
    terms: Annotated[list[Term], Field(min_length=1)]
    """Of the whole answer: what trains the last block, and in the end the whole network."""
    block_weight: Positive = 1.0
    """Of each cut's squared error."""
    whole: Fraction = 0.5
    """Share of the stage by which every cut has been mended, one after the other at even distances."""

    @model_validator(mode="after")
    def _aligned(self) -> StableKD:
        if self.teacher_blocks and len(self.teacher_blocks) != len(self.blocks):
            raise ValueError(
                f"{len(self.blocks)} blocks of the student stand against {len(self.teacher_blocks)} of the teacher: "
                "name as many"
            )
        return self

    def without_teacher(self) -> Match:
        return Match(terms=self.terms).without_teacher()


class Assistant(MethodKind):
    """A teacher's assistant carved from the teacher, its size chosen on the way (Han et al. 2024, arXiv:2407.04208).

    The student is a network of kind `slimmable` that starts from the teacher's weights; what is handed over is that
    network at the chosen size, for a later stage's teacher.
    """

    kind: Literal["assistant"] = "assistant"
    builds = "stillhouse.methods.assistant:Assistant"
    shares: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)]
    """The candidates: shares of the hidden units that are kept."""
    terms: Annotated[list[Term], Field(min_length=1)]
    """Of every candidate's logits, against the teacher's and the labels."""
    memory: Annotated[float, Field(ge=0, lt=1)] = 0.98
    """Decay of the average over steps by which candidates are judged."""


class Gaussian(MethodKind):
    """A Gaussian process fitted in closed form: to labels, or to what a teacher says (Borup & Andersen 2023).

    arXiv:2304.02641. It is exact in one step: `train: {steps: 1, batch_size: <all rows>, schedule: constant,
    optimizer: {kind: sgd, lr: 1, momentum: 0}}`.
    """

    kind: Literal["gaussian"] = "gaussian"
    builds = "stillhouse.methods.gaussian:Gaussian"
    targets: Literal["labels", "teacher"] = "labels"
    """What is fitted. `teacher`, its mean: data-centric self-distillation."""
    prior: Literal["own", "teacher"] = "own"
    """What is known before: the kernel alone, or the teacher's posterior: distribution-centric self-distillation."""

    @property
    def asks_teacher(self) -> bool:
        return "teacher" in (self.targets, self.prior)

    def without_teacher(self) -> Gaussian:
        return Gaussian()
