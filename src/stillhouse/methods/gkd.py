"""GKD: generalised knowledge distillation, with the student writing its own training text.

Paper: Agarwal et al. 2024, "On-Policy Distillation of Language Models: Learning from
    Self-Generated Mistakes", arXiv:2306.13649, algorithm 1 and the objective of section 3.1.
Algorithm: for each batch,
    draw u from U(0, 1);
    if u < lambda, the student writes y after each prompt x, else (x, y) is the data's own;
    step on the mean over the tokens of y of D(p_teacher || p_student)(. | x, y before the token).
    No gradient flows through the sampling. D is the forward KL, the reverse KL or the generalised
    Jensen-Shannon divergence. lambda = 0 is distillation on the data; lambda = 1 with the reverse
    KL is the on-policy distillation of section 3.
Roles: student; teacher, reading the same tokens.
Deviations: the prompt of running text is the beginning of its block, and on data every labelled
    token of the block counts as y. u is drawn for each micro-batch of all processes.
Limits: teacher and student share a vocabulary. Prompts of a batch have one length.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stillhouse.engine.contracts import Batch, Losses, Method, Player, Turn
from stillhouse.engine.process import from_first
from stillhouse.errors import StillhouseError
from stillhouse.methods.kinds import GKD as GKDKind
from stillhouse.methods.roles import Roles
from stillhouse.objectives.terms import Terms
from stillhouse.sources.rollouts import end_tokens, prompts, rollouts


class GKD(Method):
    def __init__(self, kind: GKDKind, roles: Roles) -> None:
        if roles.teacher is None:
            raise StillhouseError("method 'gkd' needs a teacher, and the recipe has none: add one under 'teacher'")
        self.kind = kind
        (self.divergence,) = Terms([kind.divergence])
        if self.divergence.trains:
            raise StillhouseError(
                f"gkd takes a divergence with nothing to train, and {kind.divergence.word!r} has parts"
            )
        self.student = Player(roles.student)
        self.teacher = roles.teacher
        self.ends = end_tokens(roles.student.network)
        self._same_vocabulary(roles.example)
        if kind.student_data_fraction > 0:
            prompts(roles.example, kind.prompt)  # told before training where blocks are too short

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        on_policy = bool(from_first(torch.rand((), generator=rng, device=rng.device)) < self.kind.student_data_fraction)
        if on_policy:
            batch = self.written(batch, rng)
        student = self.student.module.signals(batch)  # logits [B, T-1, V]
        teacher = self.teacher.signals(batch)
        labels, where = self.student.module.view.targets(batch)
        loss = self.divergence(student, teacher, labels, where, progress=self.progress)
        losses = Losses(**{self.divergence.name: loss})
        if 0 < self.kind.student_data_fraction < 1:
            losses.note("on_policy", float(on_policy))
        return losses

    def written(self, batch: Batch, rng: torch.Generator) -> Batch:
        """The student's own continuations of the beginnings of these texts."""
        return rollouts(
            self.student.module,
            prompts(batch, self.kind.prompt),
            self.kind.rollout,
            rng,
            temperature=self.kind.temperature,
            ends=self.ends,
        )

    def _same_vocabulary(self, example: Batch) -> None:
        with torch.no_grad():
            student = self.student.module.signals(example)["logits"].shape[-1]
        teacher = self.teacher.signals(example)["logits"].shape[-1]
        if student != teacher:
            raise StillhouseError(
                f"the student's logits are {student} wide and the teacher's {teacher}: gkd compares them token by "
                "token, so both must read one vocabulary. Train both on the same data and tokenizer; where two models "
                "of the hub share a tokenizer and only the padding of its vocabulary differs, set `width: data` on both"
            )
