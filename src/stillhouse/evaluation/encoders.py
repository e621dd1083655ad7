"""How well a text encoder guesses masked tokens, and how far its similarities are its teacher's."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from stillhouse.errors import StillhouseError
from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.encoder_kinds import MaskedTokens, Similarity
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.language import BATCH


def masked_tokens(kind: MaskedTokens, arm: Arm, context: Context) -> Findings:
    """`masked_accuracy`, `masked_perplexity`: over the split's masked tokens, all alike; `masked_nll`, nats, by text.

    Raises StillhouseError where no token of the split is masked.
    """
    del kind
    right, total, count, by_text = 0, 0.0, 0, []
    for batch in batches(context.source, BATCH, context.device):
        with measuring(arm.model):
            logits = arm.model.signals(batch)["logits"]  # [B, T, V]
        labels, where = arm.model.view.targets(batch)
        if where is None:
            raise StillhouseError("masked-tokens is for texts with masked tokens, and the labels are of whole texts")
        right += int((logits.argmax(-1) == labels)[where].sum())
        values = logits.float().log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        total -= values[where].double().sum().item()
        count += int(where.sum())
        by_text += (-values.double().masked_fill(~where, 0).sum(1) / where.sum(1).clamp(min=1)).tolist()
    if count == 0:
        raise StillhouseError(f"there is nothing to measure {arm.name} on: no token of the split is masked")
    mean = torch.tensor(total / count, dtype=torch.float64)
    metrics = {"masked_accuracy": right / count, "masked_perplexity": mean.exp().item()}
    return Findings(metrics=metrics | {"masked_nll": sum(by_text) / len(by_text)}, per_example={"masked_nll": by_text})


def similarity(kind: Similarity, arm: Arm, context: Context) -> Findings:
    """`similarity_spearman`: of the arm's cosines with the teacher's, over `kind.pairs` pairs of the split's texts.

    The pairs are the same in every run. Nothing for the teacher itself.
    Raises StillhouseError without a teacher, or where the split has fewer than two texts.
    """
    if arm.name == "teacher":
        return Findings()
    if "teacher" not in context.arms:
        raise StillhouseError("similarity is measured against a teacher, and this run has none: leave it out")
    count = len(context.source)
    if count < 2:
        raise StillhouseError(f"there is nothing to measure {arm.name} on: similarity needs two texts at least")
    rng = torch.Generator().manual_seed(0)
    first = torch.randint(count, (kind.pairs,), generator=rng)
    second = (first + torch.randint(1, count, (kind.pairs,), generator=rng)) % count
    ours, theirs = (
        (found[first] * found[second]).sum(1)
        for found in (embeddings(arm, context), embeddings(context.arms["teacher"], context))
    )
    return Findings(metrics={"similarity_spearman": float(np.asarray(spearmanr(ours.numpy(), theirs.numpy()))[0])})


def embeddings(arm: Arm, context: Context) -> Tensor:
    """The signal `embedding` of every text of the split, [N, D] float64 of length one, from the memo where it is."""
    key = ("embeddings", arm.name, context.source.fingerprint)
    if key not in context.memo:
        with measuring(arm.model):
            found = [
                arm.model.signals(batch, ["embedding"])["embedding"].double().cpu()
                for batch in batches(context.source, BATCH, context.device)
            ]
        context.memo[key] = torch.nn.functional.normalize(torch.cat(found), dim=-1)
    return context.memo[key]
