"""Whether the features of a scene name its objects."""

from __future__ import annotations

import torch
from torch.nn import functional

from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.task_kinds import SceneLabels


def scene_labels(kind: SceneLabels, arm: Arm, context: Context) -> Findings:
    """The share of unseen pixels whose rendered feature is nearest, by its cosine, to their own object's true one."""
    del kind
    rendered, targets, labels = [], [], []
    with measuring(arm.model):
        for batch in batches(context.source, context.batch_size, context.device):
            rendered.append(arm.model.signals(batch)["logits"].cpu())
            targets.append(batch["targets"][:, 0].cpu())
            labels.append(batch["labels"].cpu())
    true, names = torch.cat(targets), torch.cat(labels)
    objects = names.unique()
    asked = torch.stack([true[names == one][0] for one in objects])  # [objects, D], all of a pixel's targets being true
    cosines = functional.normalize(torch.cat(rendered), dim=1) @ asked.T
    right = (objects[cosines.argmax(1)] == names).double()
    distance = 1 - functional.cosine_similarity(torch.cat(rendered), true, dim=1).double()
    return Findings(
        metrics={"label_accuracy": right.mean().item(), "feature_distance": distance.mean().item()},
        per_example={"label_accuracy": right.tolist(), "feature_distance": distance.tolist()},
    )
