"""How well a text encoder guesses masked tokens, and how far its similarities and rankings are its teacher's."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from stillhouse.errors import NothingToMeasure, StillhouseError
from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.encoder_kinds import MaskedTokens, Ranking, Similarity
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
        raise NothingToMeasure(f"there is nothing to measure {arm.name} on: no token of the split is masked")
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
        raise NothingToMeasure(f"there is nothing to measure {arm.name} on: similarity needs two texts at least")
    rng = torch.Generator().manual_seed(0)
    first = torch.randint(count, (kind.pairs,), generator=rng)
    second = (first + torch.randint(1, count, (kind.pairs,), generator=rng)) % count
    ours, theirs = (
        (found[first] * found[second]).sum(1)
        for found in (embeddings(arm, context), embeddings(context.arms["teacher"], context))
    )
    return Findings(metrics={"similarity_spearman": float(np.asarray(spearmanr(ours.numpy(), theirs.numpy()))[0])})


def ranking(kind: Ranking, arm: Arm, context: Context) -> Findings:
    """Over the split's texts, each ranking all others by the cosine of the arm's embeddings, `kind.nearest` at a time.

    `neighbours_of_class`, where a text has a class: the share of its nearest texts that have the same. Beside a
    teacher, of other arms: `neighbours_kept`, the share of the teacher's nearest texts that are among the arm's; and
    `ndcg` (Järvelin & Kekäläinen 2002), with the teacher's cosine, zero where it is negative, as a text's relevance.
    Raises StillhouseError where the split has no more texts than are to be ranked.
    """
    count = len(context.source)
    if count <= kind.nearest:
        raise NothingToMeasure(
            f"ranking asks for the {kind.nearest} nearest of the other texts, and the split has {count} texts"
        )
    found: dict[str, list[float]] = {}
    ours = embeddings(arm, context)
    against = embeddings(context.arms["teacher"], context) if "teacher" in context.arms else None
    labels = torch.cat([batch["labels"] for batch in batches(context.source, BATCH, "cpu")])
    discount = 1 / torch.arange(2, kind.nearest + 2, dtype=torch.float64).log2()
    for rows in torch.arange(count).split(BATCH):
        chosen = _nearest(ours, rows, kind.nearest)
        if labels.dim() == 1:
            same = labels[chosen] == labels[rows].unsqueeze(1)
            found.setdefault("neighbours_of_class", []).extend(same.double().mean(1).tolist())
        if against is not None and arm.name != "teacher":
            best = _nearest(against, rows, kind.nearest)
            relevance = (against[rows] @ against.T).clamp(min=0)
            kept = (chosen.unsqueeze(2) == best.unsqueeze(1)).any(2).double().mean(1)
            gain, most = ((relevance.gather(1, order) * discount).sum(1) for order in (chosen, best))
            found.setdefault("neighbours_kept", []).extend(kept.tolist())
            found.setdefault("ndcg", []).extend((gain / most.clamp(min=1e-12)).tolist())
    return Findings(metrics={name: sum(each) / count for name, each in found.items()}, per_example=found)


def _nearest(embedded: Tensor, rows: Tensor, count: int) -> Tensor:
    """The `count` texts most similar to each of these, itself left out, best first: [rows, count]."""
    similar = embedded[rows] @ embedded.T
    similar[torch.arange(len(rows)), rows] = -torch.inf
    return similar.topk(count, dim=1).indices


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
