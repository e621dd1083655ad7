"""Meta-experts: an unlabelled batch is distilled from experts of other domains, in a step that is itself learnt.

Paper: Zhong et al. 2022, "Meta-DMoE: Adapting to Domain Shift by Meta-Distillation from Mixture-of-Experts",
    NeurIPS, arXiv:2210.03885, algorithm 1.
Algorithm: for each batch,
    for each domain d in it, split its examples of d in a support and a query half;
        ask every expert but that of d about the support; the aggregator makes one target of their features;
        theta_d = theta - rate grad mean |f_theta(support) - target|^2;
    step student and aggregator on the cross-entropy of every theta_d on its query's labels, through those steps.
    At test time the same step is taken on unlabelled images of a new domain (the metric `adapted-accuracy`).
Roles: student, a network of kind `adapting`; teacher, an ensemble with one expert a domain, in the domains' order.
Deviations: one inner step; student and aggregator start from their random beginnings, where the paper trains the
    aggregator alone before.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Losses, Method, Player, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.multi_kinds import MetaExperts as Kind
from stillhouse.methods.roles import Roles
from stillhouse.methods.teacher_selection import members_of
from stillhouse.networks.adapting import Adapting
from stillhouse.objectives.divergences import cross_entropy
from stillhouse.teachers.ensemble import Ensemble


class MetaExperts(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        self.teacher = members_of(roles.teacher, "meta-experts")
        if not isinstance(roles.student.network, Adapting):
            raise StillhouseError("method 'meta-experts' trains a student that adapts: network: {kind: adapting, ...}")
        if "domain" not in roles.example:
            raise StillhouseError("method 'meta-experts' needs to know each example's domain: data of kind 'domains'")
        self.student = Player(roles.student)

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        present, counts = batch["domain"].unique(return_counts=True)
        return Losses(query=torch.cat([self._query(batch, int(domain)) for domain in present[counts > 1]]))

    def _query(self, batch: Batch, domain: int) -> Tensor:
        """The cross-entropy of one domain's query half, after a step on its support half."""
        network = self.student.module.network
        assert isinstance(network, Adapting)
        rows = (batch["domain"] == domain).nonzero().squeeze(1)
        support, query = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        given = {name: value[support] for name, value in batch.items()}
        features = expert_features(self.teacher, network.expert_tap, given)  # [S, M, D]
        others = [m for m in range(features.shape[1]) if m != domain]
        image = self.student.module.view.inputs(batch)[""]
        theta = network.adapted(image[support], features[:, others], create_graph=True)
        return cross_entropy(network.answer(theta, image[query]), batch["labels"][query])


def expert_features(teacher: Ensemble, tap: str, batch: Batch) -> Tensor:
    """Every expert's features of a batch, [B, M, D]."""
    wants = [f"{member}.features.{tap}" for member in teacher.members]
    signals = teacher.signals(batch, wants)
    return torch.stack([signals[want] for want in wants], 1)
