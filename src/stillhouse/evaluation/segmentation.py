"""How good a class for every pixel is."""

from __future__ import annotations

import torch

from stillhouse.errors import NothingToMeasure
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.places import place_answers, share
from stillhouse.evaluation.segmentation_kinds import SegmentationScore


def segmentation(kind: SegmentationScore, arm: Arm, context: Context) -> Findings:
    """Over all labelled pixels of the split: intersection over union, averaged over the classes that occur in labels
    or answers (Everingham et al. 2010), and the share that is right; beside a teacher, the share answered as it does.

    Raises StillhouseError where no pixel has a label.
    """
    del kind
    guesses, labels = place_answers(arm, context)  # [N, H, W] each
    counts = labels >= 0
    if not counts.any():
        raise NothingToMeasure("no pixel of the measured split has a label")
    classes = context.data.facts.classes
    pairs = torch.bincount(labels[counts] * classes + guesses[counts], minlength=classes**2).view(classes, classes)
    both = pairs.diagonal().double()
    either = pairs.sum(0) + pairs.sum(1) - both
    found = Findings(metrics={"mean_iou": (both[either > 0] / either[either > 0]).mean().item()})
    share(found, "pixel_accuracy", guesses == labels, counts)
    if "teacher" in context.arms and arm.name != "teacher":
        share(found, "pixel_agreement", guesses == place_answers(context.arms["teacher"], context)[0], counts)
    return found
