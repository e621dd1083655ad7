"""How far predicted numbers are from the truth, and how sure their model is."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.regression_kinds import Correlation, Regression, Uncertainty


def regression(kind: Regression, arm: Arm, context: Context) -> Findings:
    """The root of the mean squared error, and 1 - squared error / squared deviation from the mean, over the split.

    In the units of the data: a table's target counts in standard deviations of the training rows.
    """
    del kind
    predicted, labels = _asked(arm, context, "logits"), _labels(context)
    errors = (predicted - labels).square()  # [N, 1]
    spread = (labels - labels.mean()).square().mean()
    return Findings(metrics={"rmse": errors.mean().sqrt().item(), "r2": (1 - errors.mean() / spread).item()})


def correlation(kind: Correlation, arm: Arm, context: Context) -> Findings:
    """Spearman's and Pearson's correlation over the split; 0 where the predictions are all alike."""
    from scipy.stats import rankdata

    del kind
    predicted, labels = _asked(arm, context, "logits").flatten(), _labels(context).flatten()
    ranks = [torch.from_numpy(rankdata(side.numpy())) for side in (predicted, labels)]
    return Findings(metrics={"srcc": _pearson(*ranks), "plcc": _pearson(predicted, labels)})


def _pearson(one: Tensor, other: Tensor) -> float:
    return torch.cosine_similarity(one - one.mean(), other - other.mean(), dim=0).item()


def uncertainty(kind: Uncertainty, arm: Arm, context: Context) -> Findings:
    """The mean over the split of the root of `variance`. Raises StillhouseError for a model that gives none."""
    del kind
    return Findings(metrics={"uncertainty": _asked(arm, context, "variance").sqrt().mean().item()})


def _asked(arm: Arm, context: Context, signal: str) -> Tensor:
    with measuring(arm.model):
        found = [
            arm.model.signals(batch, [signal])[signal].double().cpu()
            for batch in batches(context.source, context.batch_size, context.device)
        ]
    return torch.cat(found)


def _labels(context: Context) -> Tensor:
    return torch.cat([batch["labels"].double().cpu() for batch in batches(context.source, context.batch_size, "cpu")])
