"""Answers that a language model puts into its own words, and what they say."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import IGNORED, Batch
from stillhouse.errors import StillhouseError
from stillhouse.sources.rollouts import rollouts


def prompt_length(batch: Batch) -> int:
    """Tokens before the first labelled one. Raises StillhouseError where texts differ in it, or have no label."""
    lengths = (batch["labels"] == IGNORED).long().cumprod(1).sum(1)
    length = int(lengths[0])
    if length == batch["labels"].shape[1] or (lengths != length).any():
        raise StillhouseError("answers are written after prompts of one length, and those of this data differ in it")
    return length


def rewritten(
    network: nn.Module,
    batch: Batch,
    tokenizer: Any,
    rng: torch.Generator,
    *,
    answer: str,
    length: int,
    temperature: float = 1.0,
) -> tuple[Batch, Tensor]:
    """Texts whose gold answers the model rewrote, where the rewriting says the same and comes to an end.

    Args:
        network: a causal language model, as for `rollouts`.
        batch: prompts with gold answers, and `rewrite_ids` [B, R], the prompts that ask for a rewriting of these.
        answer: a regular expression for what counts in an answer.
        length: L, tokens of a rewriting at most.
        temperature: of the sampling.

    Returns `input_ids`, `attention_mask`, `labels` [B, P + max(L, G)], P tokens of a prompt and at most G of a gold
    answer, and whether each answer is the model's, [B] bool.
    Raises StillhouseError where the batch asks for no rewriting.
    """
    if "rewrite_ids" not in batch:
        raise StillhouseError(
            "this data has no prompts that ask for a rewriting ('rewrite_ids'), as kind 'instructions' has"
        )
    request, end = batch["rewrite_ids"], tokenizer.eos_token_id
    written = rollouts(network, request, length, rng, temperature=temperature, ends=[end])
    own, mask = (written[name][:, request.shape[1] :] for name in ("input_ids", "attention_mask"))
    begins = prompt_length(batch)
    gold, gold_mask = (batch[name][:, begins:] for name in ("input_ids", "attention_mask"))
    ended = ((own == end) & mask.bool()).any(1)
    kept = ended & same_answers(own.masked_fill(mask == 0, end), gold, tokenizer, answer)
    width = max(length, gold.shape[1])
    ids = torch.where(kept[:, None], _widened(own, width, end), _widened(gold, width, end))
    mask = torch.where(kept[:, None], _widened(mask, width, 0), _widened(gold_mask, width, 0))
    given, given_mask = batch["input_ids"][:, :begins], batch["attention_mask"][:, :begins]
    fields = {
        "input_ids": torch.cat([given, ids], 1),
        "attention_mask": torch.cat([given_mask, mask], 1),
        "labels": torch.cat([torch.full_like(given, IGNORED), ids.masked_fill(mask == 0, IGNORED)], 1),
    }
    return fields, kept


def same_answers(written: Tensor, gold: Tensor, tokenizer: Any, answer: str) -> Tensor:
    """Whether two answers say the same, [B] bool: they have the same matches of `answer`, whatever their case.

    Args: token ids [B, L] and [B, G].
    """
    pairs = zip(_texts(written, tokenizer), _texts(gold, tokenizer), strict=True)
    return torch.tensor([_says(own, answer) == _says(true, answer) for own, true in pairs], device=written.device)


def _says(text: str, answer: str) -> list[str]:
    return [match.group().lower() for match in re.finditer(answer, text)]


def _texts(ids: Tensor, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(row, skip_special_tokens=True) for row in ids.tolist()]


def _widened(values: Tensor, width: int, filling: int) -> Tensor:
    return functional.pad(values, (0, width - values.shape[1]), value=filling)
