"""How good answers with several labels an example are."""

from __future__ import annotations

from stillhouse.errors import NothingToMeasure
from stillhouse.evaluation.answers import everything
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.multi_label_kinds import MultiLabel


def multi_label(kind: MultiLabel, arm: Arm, context: Context) -> Findings:
    """Scikit-learn's average precision, averaged over the labels that occur, and micro F1 at probability 1/2:
    twice the labels found, over labels and answers.

    Beside a teacher, the share of labels on which both answer alike. Raises StillhouseError where no label occurs.
    """
    from sklearn.metrics import average_precision_score

    del kind
    answered = everything(arm, context)
    logits, labels = answered.logits, answered.labels > 0.5
    there = labels.any(0)
    if not there.any():
        raise NothingToMeasure("no label occurs in the measured split: there is nothing to find")
    guesses = logits > 0  # probability above 1/2
    found = Findings(
        metrics={
            "mean_average_precision": float(
                average_precision_score(labels[:, there].numpy(), logits[:, there].numpy(), average="macro")
            ),
            "micro_f1": (2 * (labels & guesses).sum() / (labels.sum() + guesses.sum())).item(),
        }
    )
    if "teacher" in context.arms and arm.name != "teacher":
        theirs = everything(context.arms["teacher"], context).logits
        same = (guesses == (theirs > 0)).double().mean(1)  # [N]
        found.metrics["label_agreement"] = same.mean().item()
        found.per_example["label_agreement"] = same.tolist()
    return found
