"""How good a class for every pixel is."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.errors import StillhouseError
from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.segmentation_kinds import SegmentationScore


def segmentation(kind: SegmentationScore, arm: Arm, context: Context) -> Findings:
    """Over all labelled pixels of the split: intersection over union, averaged over the classes that occur in labels
    or answers (Everingham et al. 2010), and the share that is right; beside a teacher, the share answered as it does.

    Raises StillhouseError where no pixel has a label.
    """
    del kind
    guesses, labels = _answers(arm, context)  # [N, H, W] each
    counts = labels >= 0
    if not counts.any():
        raise StillhouseError("no pixel of the measured split has a label")
    classes = context.data.facts.classes
    pairs = torch.bincount(labels[counts] * classes + guesses[counts], minlength=classes**2).view(classes, classes)
    both = pairs.diagonal().double()
    either = pairs.sum(0) + pairs.sum(1) - both
    found = Findings(metrics={"mean_iou": (both[either > 0] / either[either > 0]).mean().item()})
    _share(found, "pixel_accuracy", guesses == labels, counts)
    if "teacher" in context.arms and arm.name != "teacher":
        _share(found, "pixel_agreement", guesses == _answers(context.arms["teacher"], context)[0], counts)
    return found


def _share(found: Findings, name: str, holds: Tensor, counts: Tensor) -> None:
    """The share of the pixels that count for which something holds: each image's share, averaged over the images."""
    pixels = counts.flatten(1).sum(1)
    each = ((holds & counts).flatten(1).sum(1) / pixels.clamp(min=1)).double()[pixels > 0]
    found.metrics[name] = each.mean().item()
    found.per_example[name] = each.tolist()


def _answers(arm: Arm, context: Context) -> tuple[Tensor, Tensor]:
    """The most likely class of each pixel, and its label: [N, H, W] each, on the CPU."""
    key = ("pixels", arm.name, context.source.fingerprint)
    if key not in context.memo:
        asked = []
        with measuring(arm.model):
            for batch in batches(context.source, context.batch_size, context.device):
                logits = arm.model.signals(batch)["logits"]  # [B, H, W, C]
                asked.append((logits.argmax(-1).cpu(), batch["labels"].cpu()))
        guesses, labels = (torch.cat(side) for side in zip(*asked, strict=True))
        context.memo[key] = (guesses, labels)
    return context.memo[key]
