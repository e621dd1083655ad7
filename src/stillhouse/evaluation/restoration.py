"""How near restored images are to the true ones."""

from __future__ import annotations

import torch

from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.task_kinds import PSNR


def psnr(kind: PSNR, arm: Arm, context: Context) -> Findings:
    """10 log10(1 / mean squared error) of each image, cut to [0, 1] first: the peak is 1."""
    del kind
    found = []
    with measuring(arm.model):
        for batch in batches(context.source, context.batch_size, context.device):
            restored = arm.model.signals(batch)["logits"].clamp(0, 1).double()
            error = (restored - batch["labels"]).square().flatten(1).mean(1)
            found.append((-10 * error.clamp(min=1e-10).log10()).cpu())
    values = torch.cat(found)
    return Findings(metrics={"psnr": values.mean().item()}, per_example={"psnr": values.tolist()})
