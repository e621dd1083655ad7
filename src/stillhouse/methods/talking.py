"""Talking: teacher and student send each other messages, and each reads them as states of its own.

Paper: Zhao et al. 2023, "Talking Models: Distill Pre-trained Knowledge to Downstream Models via Interactive
    Communication", arXiv:2310.03188.
Algorithm: each network has an encoder E from its states to messages and a decoder D back. For each batch,
    the teacher speaks: the student reads D_s(E_t(later state of the teacher)) in place of its own later state;
    with `two_way` the student asks as well: the teacher goes on from D_t(E_s(early state of the student)) to a later
    state, its reply, which comes back to the student in the same way;
    step on the terms, of the student's plain answer and of those to what it decoded, and on
    consistency * (|own later state - decoded one|^2 for each decoded; |message - the teacher's|^2 of the later states,
    and of the early ones where it asks; |D_t(E_t(state)) - state|^2 of the teacher's later state, so that messages
    keep what it says; |reply - the teacher's own later state|^2).
Roles: student; teacher, a frozen network; encoders and decoders are train-only parts.
Deviations: encoders and decoders are linear layers. A state and a message that are to be met take no gradient from
    their distance, so that no side learns to say nothing. Weights of the distances are one number.
Limits: vectors [B, D], of one width for both layers of a network.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Signals, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.feature_kinds import Talking as Kind
from stillhouse.methods.roles import Roles
from stillhouse.methods.stable import replaced
from stillhouse.objectives.divergences import mse
from stillhouse.objectives.terms import of_logits
from stillhouse.teachers.frozen import one_network
from stillhouse.views.model import FEATURES, Model


class Talking(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        self.kind, self.teacher = kind, one_network(roles.teacher, kind.word)
        self.terms = of_logits(kind.terms, kind.word)
        self.own = [FEATURES + kind.asks, FEATURES + kind.hears]
        self.theirs = [FEATURES + kind.asked, FEATURES + kind.answers]
        ours, other = _width(roles.look(self.own)), _width(self.teacher.signals(roles.example, self.theirs))
        parts = {
            "student_encoder": nn.Linear(ours, kind.message),
            "student_decoder": nn.Linear(kind.message, ours),
            "teacher_encoder": nn.Linear(other, kind.message),
            "teacher_decoder": nn.Linear(kind.message, other),
        }
        self.student = Player(roles.student, parts=parts)

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        parts, kind = self.student.parts, self.kind
        own = self.student.module.signals(batch, ["logits", *self.own])
        theirs = self.teacher.signals(batch, ["logits", *self.theirs])
        asks, state = (own[name] for name in self.own)
        asked, answer = (theirs[name] for name in self.theirs)
        losses = self.answered("", own, theirs, batch)

        def consistent(name: str, found: Tensor, target: Tensor) -> None:
            losses[name] = Loss(mse(found, target.detach()), weight=kind.consistency)

        encode, decode = parts["teacher_encoder"], parts["teacher_decoder"]
        consistent("message", parts["student_encoder"](state), encode(answer))
        consistent("language", decode(encode(answer)), answer)
        told = {"told": answer}
        if kind.two_way:
            question = parts["student_encoder"](asks)
            told["replied"] = self.reply(batch, decode(question))
            consistent("question", question, encode(asked))
            consistent("reply", told["replied"], answer)
        for name, said in told.items():
            decoded = parts["student_decoder"](encode(said))
            with replaced(self.student.module.network, {kind.hears: decoded}):
                losses |= self.answered(f"{name}/", self.student.module.signals(batch), theirs, batch)
            consistent(f"{name}/state", state, decoded)
        return losses

    def reply(self, batch: Batch, asked: Tensor) -> Tensor:
        """The teacher's later state [B, D] where it goes on from this one [B, D], which may take gradients."""
        answers = self.theirs[1]
        with replaced(self.teacher.network, {self.kind.asked: asked}):
            return Model.signals(self.teacher, batch, [answers])[answers]

    def answered(self, prefix: str, own: Signals, theirs: Signals, batch: Batch) -> Losses:
        """The terms of an answer of the student's."""
        labels, where = self.student.module.view.targets(batch)
        found = self.terms.losses(own, theirs, labels, where, progress=self.progress, batch=batch)
        return Losses({prefix + name: loss for name, loss in found.items()})


def _width(signals: Signals) -> int:
    """Of the features among these."""
    shapes = [list(state.shape) for name, state in signals.items() if name.startswith(FEATURES)]
    if len(shapes[0]) != 2 or shapes[0] != shapes[-1]:
        raise StillhouseError(
            f"'talking' taps vectors [B, D] of one width, two layers of each network; these have shapes {shapes}"
        )
    return shapes[0][1]
