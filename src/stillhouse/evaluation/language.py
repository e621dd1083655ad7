"""How well a language model predicts text, and what a teacher thinks of what it writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Data
from stillhouse.engine.seeds import derive
from stillhouse.errors import NothingToMeasure, StillhouseError
from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.generation_kinds import Perplexity, TeacherJudged
from stillhouse.sources.rollouts import end_tokens, prompts, rollouts
from stillhouse.views.model import Model

BATCH = 64
"""Texts scored at a time: their logits are as wide as the vocabulary."""
PARTED = " \N{BLACK RIGHT-POINTING SMALL TRIANGLE} "
"""Between a prompt and what was written after it."""


@dataclass(frozen=True)
class Scored:
    """Log-likelihoods of tokens in nats, [B, T-1], and which of them count, [B, T-1] bool."""

    values: Tensor
    where: Tensor

    @property
    def by_text(self) -> Tensor:
        """The mean over the tokens that count of each text, [B] float64; 0 where none counts."""
        counts = self.where.sum(1)
        return self.values.double().masked_fill(~self.where, 0).sum(1) / counts.clamp(min=1)


def perplexity(kind: Perplexity, arm: Arm, context: Context) -> Findings:
    """`perplexity`: exp of the mean negative log-likelihood of the split's tokens, all tokens alike.

    `text_nll`: the same mean in nats, taken in each text first, so that two arms can be paired by text.
    """
    del kind
    _language(context.data, "perplexity")
    total, count, by_text = 0.0, 0, []
    for batch in batches(context.source, BATCH, context.device):
        scored = score(arm.model, batch)
        total -= scored.values[scored.where].double().sum().item()
        count += int(scored.where.sum())
        by_text += (-scored.by_text).tolist()
    if count == 0:
        raise NothingToMeasure(f"there is nothing to measure {arm.name} on: the split has no labelled token")
    mean = torch.tensor(total / count, dtype=torch.float64)
    return Findings(
        metrics={"perplexity": mean.exp().item(), "text_nll": sum(by_text) / len(by_text)},
        per_example={"text_nll": by_text},
    )


def teacher_judged(kind: TeacherJudged, arm: Arm, context: Context) -> Findings:
    """The teacher's opinion of the arm's own samples, one or more after the beginning of every text of the split.

    Of each sample y after its prompt x the mean over its tokens is taken, then the mean over samples, in nats:

    `teacher_log_likelihood`: of log p_teacher(y_t | x, y_<t);
    `own_log_likelihood`: of log p_arm(y_t | x, y_<t);
    `gap`: of log p_arm - log p_teacher. As y is drawn from the arm, at temperature 1 its expectation is the
        sequence-level reverse KL(arm || teacher) per token, where samples are of one length: 0 for the teacher
        itself, and it falls both as samples get likelier to the teacher and as their variety grows.

    The random stream depends on the run's seed alone: arms differ in weights, not in luck.
    Raises StillhouseError without a teacher, or where the two read different vocabularies.
    """
    _language(context.data, "teacher-judged")
    if "teacher" not in context.arms:
        raise StillhouseError("teacher-judged needs a teacher that can be run, and this run has none: leave it out")
    teacher = context.arms["teacher"].model
    _one_vocabulary(arm, teacher, context.device)
    rng = torch.Generator(context.device).manual_seed(derive(context.seed, "teacher-judged"))
    judged: list[Tensor] = []
    own: list[Tensor] = []
    samples: list[str] = []
    for batch in batches(context.source, BATCH, context.device):
        for _ in range(kind.samples):
            written = _written(arm.model, prompts(batch, kind.prompt), kind, rng)
            ours, theirs = score(arm.model, written), score(teacher, written)
            own.append(ours.by_text)
            judged.append(theirs.by_text)
            samples += _shown(written, kind, context, room=kind.shown - len(samples))
    columns = {"teacher_log_likelihood": torch.cat(judged), "own_log_likelihood": torch.cat(own)}
    columns["gap"] = columns["own_log_likelihood"] - columns["teacher_log_likelihood"]
    figure = {"kind": "text", "title": f"Written after {kind.prompt} tokens of prompt", "samples": samples}
    return Findings(
        metrics={name: values.mean().item() for name, values in columns.items()},
        figures=[figure] if samples else [],
        per_example={name: values.tolist() for name, values in columns.items()},
    )


def score(model: Model, batch: Batch) -> Scored:
    """The log-likelihood a model gives to every labelled token of these texts."""
    with measuring(model):
        logits = model.signals(batch)["logits"]  # [B, T-1, V]
    labels, where = model.view.targets(batch)
    counted = torch.ones_like(labels, dtype=torch.bool) if where is None else where
    chosen = labels.masked_fill(~counted, 0).unsqueeze(-1)
    values = logits.float().log_softmax(-1).gather(-1, chosen).squeeze(-1)
    return Scored(values, counted)


def _written(model: Model, given: Tensor, kind: TeacherJudged, rng: torch.Generator) -> Batch:
    ends = end_tokens(model.network)
    return rollouts(model, given, kind.rollout, rng, temperature=kind.temperature, ends=ends)


def _shown(written: Batch, kind: TeacherJudged, context: Context, *, room: int) -> list[str]:
    """The first samples as text, the prompt parted from what was written."""
    tokenizer = context.data.facts.tokenizer
    if tokenizer is None or room <= 0:
        return []
    rows = zip(written["input_ids"][:room], written["attention_mask"][:room], strict=True)
    texts = [ids[mask.bool()].tolist() for ids, mask in rows]
    return [f"{tokenizer.decode(ids[: kind.prompt])}{PARTED}{tokenizer.decode(ids[kind.prompt :])}" for ids in texts]


def _one_vocabulary(arm: Arm, teacher: Model, device: Any) -> None:
    probe = {"input_ids": torch.zeros(1, 2, dtype=torch.long, device=device)}
    with measuring(arm.model), measuring(teacher):
        ours, theirs = (model.signals(probe)["logits"].shape[-1] for model in (arm.model, teacher))
    if ours != theirs:
        raise StillhouseError(
            f"teacher-judged: {arm.name} knows {ours} tokens and the teacher {theirs}: they read different "
            "vocabularies, so the teacher cannot score what the arm writes"
        )


def _language(data: Data, metric: str) -> None:
    if data.facts.task != "language":
        raise StillhouseError(f"{metric} is for language models, and the data is for {data.facts.task}: leave it out")
