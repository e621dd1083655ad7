"""How good a classifier is, whether it copies its teacher, and whether its confidence can be believed."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.errors import NothingToMeasure, StillhouseError
from stillhouse.evaluation.answers import Answers, answers, batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.kinds import (
    Accuracy,
    Agreement,
    Calibration,
    GroupAccuracy,
    MacroF1,
    PatchShuffle,
    ShiftedAccuracy,
)

MOST_CLASSES = 40
"""More classes than this are drawn by rank, not by name: a reader could not tell them apart."""


def accuracy(kind: Accuracy, arm: Arm, context: Context) -> Findings:
    """The share of examples whose most likely class is the label; the same by class as a figure."""
    del kind
    found = answers(arm, context)
    right = found.right.double()
    return Findings(
        metrics={"accuracy": right.mean().item()},
        figures=_by_class("Accuracy by class", right, found.labels, context),
        per_example={"accuracy": right.tolist()},
    )


def macro_f1(kind: MacroF1, arm: Arm, context: Context) -> Findings:
    """2 TP / (2 TP + FP + FN), averaged over the classes that are labels or answers of some example."""
    del kind
    found = answers(arm, context)
    classes = found.logits.shape[-1]
    right = torch.bincount(found.labels[found.right], minlength=classes).double()
    counts = torch.bincount(found.labels, minlength=classes) + torch.bincount(found.guesses, minlength=classes)
    seen = counts > 0
    return Findings(metrics={"macro_f1": (2 * right[seen] / counts[seen]).mean().item()})


def group_accuracy(kind: GroupAccuracy, arm: Arm, context: Context) -> Findings:
    """The share of right answers among the examples of the named classes. Raises where the split has none of them."""
    found = answers(arm, context)
    metrics = {}
    for name, classes in {"head_accuracy": kind.head, "tail_accuracy": kind.tail}.items():
        chosen = torch.isin(found.labels, torch.tensor(classes))
        if not chosen.any():
            raise NothingToMeasure(f"group-accuracy: no example is of the classes {classes}")
        metrics[name] = found.right[chosen].double().mean().item()
    return Findings(metrics=metrics)


def patch_shuffle(kind: PatchShuffle, arm: Arm, context: Context) -> Findings:
    """Accuracy on shuffled patches: the same order for an image in every run and arm.

    Raises StillhouseError where the images do not split into patches.
    """
    shape, rng = context.data.facts.shape, torch.Generator().manual_seed(0)
    if len(shape) != 3 or shape[1] % kind.patch or shape[2] % kind.patch:
        raise StillhouseError(f"patch-shuffle: inputs {list(shape)} do not split into patches of {kind.patch} pixels")
    right = []
    with measuring(arm.model):
        for batch in batches(context.source, context.batch_size, context.device):
            shuffled = batch | {"image": shuffled_patches(batch["image"], kind.patch, rng)}
            right.append((arm.model.signals(shuffled)["logits"].argmax(-1) == batch["labels"]).double().cpu())
    values = torch.cat(right)
    return Findings(
        metrics={"shuffled_accuracy": values.mean().item()}, per_example={"shuffled_accuracy": values.tolist()}
    )


def shifted_accuracy(kind: ShiftedAccuracy, arm: Arm, context: Context) -> Findings:
    """Accuracy over all moves by up to `pixels` down and right, or up and left."""
    most = kind.pixels
    found = []
    with measuring(arm.model):
        for batch in batches(context.source, context.batch_size, context.device):
            height, width = batch["image"].shape[-2:]
            padded = functional.pad(batch["image"], (most, most, most, most))
            right = torch.zeros(len(padded), dtype=torch.float64)
            for down, across in product(range(2 * most + 1), repeat=2):
                seen = batch | {"image": padded[..., down : down + height, across : across + width]}
                right += (arm.model.signals(seen)["logits"].argmax(-1) == batch["labels"]).double().cpu()
            found.append(right / (2 * most + 1) ** 2)
    values = torch.cat(found)
    return Findings(
        metrics={"shifted_accuracy": values.mean().item()}, per_example={"shifted_accuracy": values.tolist()}
    )


def shuffled_patches(image: Tensor, patch: int, rng: torch.Generator) -> Tensor:
    """Images [B, C, H, W], the patches of each in an order of its own."""
    pieces = functional.unfold(image, patch, stride=patch)  # [B, C patch^2, N]
    order = torch.rand(len(image), pieces.shape[-1], generator=rng).argsort(-1).to(image.device)
    moved = pieces.gather(2, order[:, None].expand_as(pieces))
    return functional.fold(moved, image.shape[-2:], patch, stride=patch)


def agreement(kind: Agreement, arm: Arm, context: Context) -> Findings:
    """How often arm and teacher name the same class, and the mean KL(teacher || arm) in nats, at temperature 1.

    `agreement_right` and `agreement_wrong` are over the examples on which the teacher is right, and wrong: the first
    is what was learned of it, the second counts mistakes that arm and teacher share. A teacher that is never wrong
    (or never right) leaves the one that is about nothing out.

    Nothing for the teacher itself. Raises StillhouseError without a teacher, or where the two name different
    numbers of classes.
    """
    del kind
    if arm.name == "teacher":
        return Findings()
    if "teacher" not in context.arms:
        raise StillhouseError("agreement is measured against a teacher, and this run has none: leave it out")
    own, teacher = answers(arm, context), answers(context.arms["teacher"], context)
    if own.logits.shape != teacher.logits.shape:
        raise StillhouseError(
            f"{arm.name} gives logits of shape {list(own.logits.shape)}, the teacher {list(teacher.logits.shape)}: "
            "agreement needs the same classes on both sides"
        )
    same = (own.guesses == teacher.guesses).double()
    columns = {
        "agreement": same,
        "agreement_right": same[teacher.right],
        "agreement_wrong": same[~teacher.right],
        "teacher_kl": teacher_kl(own.logits, teacher.logits),
    }
    columns = {name: values for name, values in columns.items() if len(values)}
    return Findings(
        metrics={name: values.mean().item() for name, values in columns.items()},
        figures=[who_is_right(own, teacher), *_by_class("Agreement by class", same, own.labels, context)],
        per_example={name: values.tolist() for name, values in columns.items()},
    )


def calibration(kind: Calibration, arm: Arm, context: Context) -> Findings:
    """Negative log-likelihood (nats), Brier score (0 to 2) and expected calibration error (0 to 1)."""
    found = answers(arm, context)
    log_p = found.logits.double().log_softmax(-1)  # [N, C]
    nll = functional.nll_loss(log_p, found.labels, reduction="none")
    brier = brier_score(log_p.exp(), found.labels)
    bins = reliability(log_p.exp(), found.labels, kind.bins)
    ece = expected_calibration_error(bins)
    figure = {"kind": "reliability", "title": "Calibration", "bins": bins, "ece": ece}
    return Findings(
        metrics={"nll": nll.mean().item(), "brier": brier.mean().item(), "ece": ece},
        figures=[figure],
        per_example={"nll": nll.tolist(), "brier": brier.tolist()},
    )


def teacher_kl(own: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || own) of each example in nats, [N] float64, from logits [N, C]."""
    log_p, log_q = teacher.double().log_softmax(-1), own.double().log_softmax(-1)
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def brier_score(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Squared distance between the probabilities [N, C] and the label's one-hot vector, summed over classes, [N].

    Brier 1950, "Verification of forecasts expressed in terms of probability": 0 is perfect, 2 the worst.
    """
    return (probabilities - functional.one_hot(labels, probabilities.shape[-1])).square().sum(-1)


def reliability(probabilities: Tensor, labels: Tensor, bins: int) -> list[dict[str, float]]:
    """Equal-width bins (low, high] of the largest probability, each with its count, mean confidence and accuracy.

    Guo et al. 2017, arXiv:1706.04599, equations 1 and 2. Empty bins have accuracy and confidence 0.
    """
    confidence, guesses = probabilities.double().max(-1)
    right = (guesses == labels).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = torch.bucketize(confidence, edges[1:-1])  # (low, high]: an edge belongs to the bin below it
    counts = torch.bincount(place, minlength=bins)
    shown = counts.clamp(min=1)
    mean_confidence = torch.bincount(place, confidence, minlength=bins) / shown
    mean_right = torch.bincount(place, right, minlength=bins) / shown
    columns = zip(edges[:-1], edges[1:], counts, mean_confidence, mean_right, strict=True)
    return [
        {"low": a.item(), "high": b.item(), "count": n.item(), "confidence": c.item(), "accuracy": r.item()}
        for a, b, n, c, r in columns
    ]


def expected_calibration_error(bins: list[dict[str, float]]) -> float:
    """The gap between confidence and accuracy, averaged over the bins by their counts (Guo et al. 2017, equation 3)."""
    gaps = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins)
    return gaps / sum(b["count"] for b in bins)


def who_is_right(own: Answers, teacher: Answers) -> dict[str, Any]:
    """Counts of examples by who is right: a figure."""
    a, t = own.right, teacher.right
    return {
        "kind": "who-is-right",
        "title": "Who is right",
        "both": int((a & t).sum()),
        "arm_only": int((a & ~t).sum()),
        "teacher_only": int((~a & t).sum()),
        "neither": int((~a & ~t).sum()),
        "same_mistake": int((~a & ~t & (own.guesses == teacher.guesses)).sum()),
    }


def _by_class(title: str, values: Tensor, labels: Tensor, context: Context) -> list[dict[str, Any]]:
    """A chart of the mean of values [N] for each class that occurs, from the worst to the best where they are many."""
    present = labels.unique().tolist()
    shares = [values[labels == c].mean().item() for c in present]
    if len(present) > MOST_CLASSES:
        ranked = {"x": list(range(1, len(present) + 1)), "series": {"": sorted(shares)}, "range": [0.0, 1.0]}
        about = "The classes of each arm, from its worst to its best: one rank is another class in another arm."
        words = {"title": title, "xlabel": "class, by rank", "unit": "share", "about": about}
        return [{"kind": "lines", **words, **ranked}]
    names = context.data.facts.names
    shown = [names[c] if c < len(names) else str(c) for c in present]
    return [{"kind": "dots", "title": title, "labels": shown, "series": {"": shares}, "unit": "share"}]
