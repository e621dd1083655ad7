"""What a language model answers to held-out instructions, and how it rewrites gold answers."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch
from stillhouse.engine.seeds import derive
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.answers import batches
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.language import score
from stillhouse.evaluation.task_kinds import Rewriting, Skills
from stillhouse.sources.rewriting import prompt_length, rewritten, same_answers
from stillhouse.sources.rollouts import rollouts

GREEDY = 1e-3
"""A temperature at which the likeliest token is the one that is drawn."""


def skills(kind: Skills, arm: Arm, context: Context) -> Findings:
    """`new_skill` and `known_skills`: the shares of instructions whose answer says what the gold one says;
    `known_style`: the share of the known skills' answers that are the gold one token by token.

    Raises StillhouseError for data that does not tell new skills from known ones.
    """
    rng = torch.Generator(context.device).manual_seed(derive(context.seed, "skills"))
    found = [
        _judged(kind, arm, context, batch, rng) for batch in batches(context.source, context.batch_size, context.device)
    ]
    right, same, new = (torch.cat(values).cpu() for values in zip(*found, strict=True))
    per_example = {"new_skill": right[new], "known_skills": right[~new], "known_style": same[~new]}
    columns = {name: values.double() for name, values in per_example.items()}
    return Findings(
        metrics={name: values.mean().item() for name, values in columns.items()},
        per_example={name: values.tolist() for name, values in columns.items()},
    )


def rewriting(kind: Rewriting, arm: Arm, context: Context) -> Findings:
    """`gold_nll` and `rewritten_nll`: the mean over texts of the arm's negative log-likelihood a token, of the new
    skill's gold answers and of what the arm made of them, gold again where the result is another;
    `rewritten`: the share that it rewrote with the same result.

    Raises StillhouseError for data that does not tell new skills from known ones.
    """
    rng = torch.Generator(context.device).manual_seed(derive(context.seed, "rewriting"))
    gold, own, kept = [], [], []
    for whole in batches(context.source, context.batch_size, context.device):
        batch = {name: value[_new(whole)] for name, value in whole.items()}
        texts, passed = rewritten(
            arm.model.network,
            batch,
            context.data.facts.tokenizer,
            rng,
            answer=kind.answer,
            length=kind.length,
            temperature=kind.temperature,
        )
        gold.append(-score(arm.model, batch).by_text)
        own.append(-score(arm.model, texts).by_text)
        kept.append(passed.double())
    columns = {"gold_nll": torch.cat(gold), "rewritten_nll": torch.cat(own), "rewritten": torch.cat(kept)}
    return Findings(metrics={name: values.mean().item() for name, values in columns.items()})


def _judged(
    kind: Skills, arm: Arm, context: Context, batch: Batch, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each text, [B] bool: whether the answer is right, whether it is the gold one as it stands, and whether the
    skill is new."""
    tokenizer = context.data.facts.tokenizer
    begins, end = prompt_length(batch), tokenizer.eos_token_id
    given = batch["input_ids"][:, :begins]
    written = rollouts(arm.model.network, given, kind.length, rng, temperature=GREEDY, ends=[end])
    own = written["input_ids"].masked_fill(written["attention_mask"] == 0, end)[:, begins:]
    gold = batch["input_ids"][:, begins:]
    width = min(own.shape[1], gold.shape[1])
    rest = (own[:, width:] == end).all(1) & (gold[:, width:] == end).all(1)
    same = (own[:, :width] == gold[:, :width]).all(1) & rest
    return same_answers(own, gold, tokenizer, kind.answer), same, _new(batch)


def _new(batch: Batch) -> Tensor:
    if "new" not in batch:
        raise StillhouseError("this data does not tell new skills from known ones, as kind 'instructions' does")
    return batch["new"]
