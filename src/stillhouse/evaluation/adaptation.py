"""How good a classifier is that may adapt to unlabelled images before it answers."""

from __future__ import annotations

import torch

from stillhouse.errors import StillhouseError
from stillhouse.evaluation.answers import answers, batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.task_kinds import AdaptedAccuracy
from stillhouse.methods.meta_experts import expert_features
from stillhouse.networks.adapting import Adapting
from stillhouse.teachers.ensemble import Ensemble


def adapted_accuracy(kind: AdaptedAccuracy, arm: Arm, context: Context) -> Findings:
    """The share of right answers, each batch answered after one step on its own images.

    Raises StillhouseError where the arm adapts and the teacher is no ensemble of experts.
    """
    network = arm.model.network
    if not isinstance(network, Adapting):
        right = answers(arm, context).right
    else:
        experts = context.arms["teacher"].model
        if not isinstance(experts, Ensemble):
            raise StillhouseError("adapted-accuracy asks experts: name them under teacher.members")
        found = []
        for batch in batches(context.source, kind.batch_size, context.device):
            image = arm.model.view.inputs(batch)[""]
            with measuring(arm.model), torch.enable_grad():
                theta = network.adapted(image, expert_features(experts, network.expert_tap, batch))
                found.append((network.answer(theta, image).argmax(-1) == batch["labels"]).cpu())
        right = torch.cat(found)
    values = right.double()
    return Findings(
        metrics={"adapted_accuracy": values.mean().item()}, per_example={"adapted_accuracy": values.tolist()}
    )
