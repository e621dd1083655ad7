"""How much of the true trees a parser finds."""

from __future__ import annotations

import torch

from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.task_kinds import BracketF1
from stillhouse.objectives.trees import average_tree, best_tree, bracket_f1


def bracket_f1_of(kind: BracketF1, arm: Arm, context: Context) -> Findings:
    """Mean F1 over sentences of the arm's best trees, of the average of the parsers' trees, and of the best parser."""
    del kind
    own, average, parsers = [], [], []
    with measuring(arm.model):
        for batch in batches(context.source, context.batch_size, context.device):
            true, lengths, parsed = batch["tree"], batch["lengths"], batch["parsed"]
            own.append(bracket_f1(best_tree(arm.model.signals(batch)["logits"], lengths), true, lengths).cpu())
            average.append(bracket_f1(average_tree(parsed, lengths), true, lengths).cpu())
            each = [bracket_f1(parsed[:, k], true, lengths) for k in range(parsed.shape[1])]
            parsers.append(torch.stack(each, 1).cpu())
    values = torch.cat(own).double()
    metrics = {
        "f1": values.mean().item(),
        "average_f1": torch.cat(average).mean().item(),
        "best_parser_f1": torch.cat(parsers).mean(0).max().item(),
    }
    return Findings(metrics=metrics, per_example={"f1": values.tolist()})
