"""Tree distillation: a parser learns the average of other parsers' trees.

Paper: Shayegh et al. 2024, "Ensemble Distillation for Unsupervised Constituency Parsing", ICLR, arXiv:2310.01717,
    sections 2.2 (tree averaging) and 2.3 (ensemble-then-distil).
Algorithm: for each batch, with the parsers' trees of its sentences,
    average: take the binary tree that shares most spans with all of them, and step on its negative log-likelihood;
    union: step on the mean of the negative log-likelihoods of all of them (the over-smoothing that the paper
        compares with); or on that of one parser's trees alone.
Roles: student, a network of span scores. The teachers are the trees in the batch; the true tree is never looked at.
Deviations: a tree's probability is a globally normalised product over its spans, where the paper's student is an
    RNNG trained further on unlabelled text.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stillhouse.engine.contracts import Batch, Losses, Method, Player, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.multi_kinds import TreeDistillation as Kind
from stillhouse.methods.roles import Roles
from stillhouse.objectives.trees import average_tree, negative_log_likelihood


class TreeDistillation(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        if "parsed" not in roles.example:
            raise StillhouseError("method 'tree-distillation' needs several parsers' trees: data of kind 'grammar'")
        count = roles.example["parsed"].shape[1]
        if isinstance(kind.of, int) and kind.of >= count:
            raise StillhouseError(f"there is no parser {kind.of}: the data has 0 to {count - 1}")
        self.of = kind.of
        self.student = Player(roles.student)

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        scores = self.student.module.signals(batch)["logits"]  # [B, T, T]
        lengths, parsed = batch["lengths"], batch["parsed"]
        if isinstance(self.of, int):
            return Losses(one=negative_log_likelihood(scores, parsed[:, self.of], lengths))
        if self.of == "union":  # the mean over parsers of what is linear in the tree
            return Losses(union=negative_log_likelihood(scores, parsed.mean(1), lengths))
        return Losses(average=negative_log_likelihood(scores, average_tree(parsed, lengths), lengths))
