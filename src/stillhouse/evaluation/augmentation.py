"""What a teacher makes of augmented training images."""

from __future__ import annotations

import torch

from stillhouse.errors import StillhouseError
from stillhouse.evaluation.answers import measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.kinds import TeacherStddev


def teacher_stddev(kind: TeacherStddev, arm: Arm, context: Context) -> Findings:
    """Deviation, over draws of augmented images, of the teacher's mean probability of a class; averaged over classes.

    Wang et al. 2022 (arXiv:2012.02909), section 3.2. Nothing for an arm whose data is not told; raises StillhouseError
    for data of an arm that there is not.
    """
    unknown = sorted(kind.data.keys() - context.arms.keys())
    if unknown:
        raise StillhouseError(f"teacher-stddev: data is told for {', '.join(unknown)}, which is no arm")
    if arm.name not in kind.data:
        return Findings()
    source = kind.data[arm.name].build().train
    rng = torch.Generator().manual_seed(context.seed)
    means = []
    teacher = context.arms["teacher"].model
    with measuring(teacher):
        for _ in range(kind.draws):
            rows = torch.randint(len(source), (kind.examples,), generator=rng)
            batch = {name: value.to(context.device) for name, value in source.fetch(rows, rng).items()}
            means.append(teacher.signals(batch)["logits"].double().softmax(-1).mean(0))  # [C]
    return Findings(metrics={"teacher_stddev": torch.stack(means).std(0).mean().item()})
