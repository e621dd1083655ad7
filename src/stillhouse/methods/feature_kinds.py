"""Methods on features: how examples stand to one another, which units matter, messages. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.engine.settings import Positive
from stillhouse.methods.kinds import Match, MethodKind, Term

Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class SSKD(MethodKind):
    """What the teacher makes of turned images, and how these stand to the images themselves (Xu et al. 2020, SSKD).

    arXiv:2006.07114. `train.players.head` sets what the teacher's projection head does otherwise than the student.
    """

    kind: Literal["sskd"] = "sskd"
    builds = "stillhouse.methods.sskd:SSKD"
    features: str = "features.pool"
    """The student's features that a projection head reads, vectors [B, D]."""
    teacher_features: str = "features.pool"
    """The teacher's."""
    labels: Weight = 0.1
    """Weight of the cross-entropy on the images' labels."""
    plain: Weight = 0.9
    """Weight of the KL on the images."""
    turned: Weight = 2.7
    """Weight of the KL on the turned images."""
    similarity: Weight = 10.0
    """Weight of the KL between the similarities."""
    temperature: Positive = 4.0
    """Of the answers."""
    similarity_temperature: Positive = 0.5
    """Of the similarities, cosines."""
    wrong_answers: Share = 1.0
    """Of the turned images that the teacher gets wrong, the share whose answers count: the least wrong."""
    wrong_similarities: Share = 0.75
    """Of the turned images that the teacher takes for another one's, the share whose similarities count."""

    def without_teacher(self) -> Match:
        from stillhouse.objectives.kinds import CrossEntropy

        return Match(terms=[CrossEntropy(signal="labels")])


class TaskUnits(Match):
    """`match`, each of whose terms on features sees those units of the teacher that matter most to the task.

    As many as the student has there: no projector is needed (Flex-KD, Saadi & Wang 2025, arXiv:2507.10155).
    """

    kind: Literal["task-units"] = "task-units"  # type: ignore[assignment]
    builds = "stillhouse.methods.task_units:TaskUnits"
    choose: Literal["task", "random"] = "task"
    """`random`: any units, as a control."""
    batches: Annotated[int, Field(gt=0)] = 8
    """Of 512 examples at most, whose gradients tell what matters."""


class Talking(MethodKind):
    """Teacher and student exchange messages that each decodes into states of its own.

    Zhao et al. 2023 (arXiv:2310.03188). The two layers tapped of one network have the same width, vectors [B, D].
    """

    kind: Literal["talking"] = "talking"
    builds = "stillhouse.methods.talking:Talking"
    asks: str
    """Module path of the student's layer that its message to the teacher is made of."""
    hears: str
    """The same of the later layer whose state the student decodes from the teacher's message."""
    asked: str
    """Of the teacher's layer in whose place it reads the student's message."""
    answers: str
    """Of the later layer that its own messages are made of."""
    terms: Annotated[list[Term], Field(min_length=1)]
    """Of the student's answers, of those it gives to the batch and of those it gives to what it decoded."""
    message: Annotated[int, Field(gt=0)] = 32
    """Width of a message."""
    consistency: Weight = 1.0
    """Weight of the distances between states, and between messages."""
    two_way: bool = True
    """Whether the student asks as well; else the teacher alone speaks."""

    def without_teacher(self) -> Match:
        return Match(terms=self.terms).without_teacher()
