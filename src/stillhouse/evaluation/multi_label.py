"""How good answers with several labels an example are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.errors import NothingToMeasure
from stillhouse.evaluation.answers import everything
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.kinds import Features
from stillhouse.evaluation.multi_label_kinds import MultiLabel, MultiLabelKNN, MultiLabelProbe
from stillhouse.evaluation.representation import SEED, features, logistic


def multi_label(kind: MultiLabel, arm: Arm, context: Context) -> Findings:
    """Scikit-learn's average precision, averaged over the labels that occur, and micro F1 at probability 1/2:
    twice the labels found, over labels and answers.

    Beside a teacher, the share of labels on which both answer alike. Raises StillhouseError where no label occurs.
    """
    del kind
    answered = everything(arm, context)
    logits, labels = answered.logits, answered.labels > 0.5
    guesses = logits > 0  # probability above 1/2
    found = Findings(
        metrics={
            "mean_average_precision": _mean_average_precision(logits, labels),
            "micro_f1": (2 * (labels & guesses).sum() / (labels.sum() + guesses.sum())).item(),
        }
    )
    if "teacher" in context.arms and arm.name != "teacher":
        theirs = everything(context.arms["teacher"], context).logits
        same = (guesses == (theirs > 0)).double().mean(1)  # [N]
        found.metrics["label_agreement"] = same.mean().item()
        found.per_example["label_agreement"] = same.tolist()
    return found


def multi_label_probe(kind: MultiLabelProbe, arm: Arm, context: Context) -> Findings:
    """As `linear-probe`, a regression for each class, which are ranked by what it says.

    A class that all of the examples it is fitted on have, or none, is not asked. Raises StillhouseError where no label
    is left to be found.
    """
    seen, labels = _labelled(kind, arm, context)
    found, true = features(arm, context, kind.signal, context.source)
    both = (labels.any(0) & ~labels.all(0)).nonzero().flatten().tolist()
    if not both:
        raise NothingToMeasure("multi-label-probe: no class is there in some training examples and not in others")
    scores = [logistic(seen, labels[:, c], kind.inverse_penalty).decision_function(found.numpy()) for c in both]
    ranked = torch.stack([torch.from_numpy(score) for score in scores], 1)
    return Findings(metrics={"probe_average_precision": _mean_average_precision(ranked, true[:, both] > 0.5)})


def multi_label_knn(kind: MultiLabelKNN, arm: Arm, context: Context) -> Findings:
    """A training example counts exp(cos / temperature) for each of its classes; `neighbours` of them vote, and a class
    is ranked by its share of the votes. Raises StillhouseError where no label occurs."""
    seen, labels = _labelled(kind, arm, context)
    found, true = features(arm, context, kind.signal, context.source)
    alike = functional.normalize(found, dim=1) @ functional.normalize(seen, dim=1).T  # [N, examples]
    nearest = alike.topk(min(kind.neighbours, len(seen)), dim=1)
    votes = (nearest.values / kind.temperature).softmax(1)
    shares = (votes.unsqueeze(-1) * labels[nearest.indices]).sum(1)  # [N, C]
    return Findings(metrics={"knn_average_precision": _mean_average_precision(shares, true > 0.5)})


def _labelled(kind: Features, arm: Arm, context: Context) -> tuple[Tensor, Tensor]:
    """Features and labels of the training examples whose labels are used, drawn evenly."""
    seen, labels = features(arm, context, kind.signal, context.data.train)
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))[: kind.examples]
    return seen[rows], labels[rows] > 0.5


def _mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Scikit-learn's, over the labels that occur: scores and labels [N, C]."""
    from sklearn.metrics import average_precision_score

    there = labels.any(0)
    if not there.any():
        raise NothingToMeasure("no label occurs in the measured split: there is nothing to find")
    return float(average_precision_score(labels[:, there].numpy(), scores[:, there].numpy(), average="macro"))
