"""Text with masked tokens, for masked language models."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from stillhouse.engine.contracts import IGNORED, Batch, Data, Facts, Source
from stillhouse.errors import StillhouseError
from stillhouse.sources.encoder_kinds import Masked

REPLACED, RANDOM = 0.8, 0.9
"""Of the chosen tokens, the share below the first becomes the mask, that between the two a random token."""


def masked(kind: Masked) -> Data:
    """The text of `kind.of`, masked; labels of its own, such as classes, are left out.

    Raises StillhouseError where the text's tokenizer has no token for masked positions.
    """
    data: Data = kind.of.build()
    tokenizer = data.facts.tokenizer
    if tokenizer is None or tokenizer.mask_token_id is None:
        raise StillhouseError(
            f"data.of: the vocabulary of {kind.of.word!r} has no token for masked positions: set `mask: true` on the "
            "text whose vocabulary is trained, or take the tokenizer of a masked language model"
        )
    splits = (MaskedText(split, kind.share, tokenizer) for split in (data.train, data.validation, data.test))
    facts = Facts("masked-language", data.facts.shape, len(tokenizer), tokenizer=tokenizer, licence=data.facts.licence)
    return Data(*splits, facts=facts)


class MaskedText:
    """A `Source`: `input_ids` [B, T] with masked tokens, `labels` [B, T] with theirs and -100 elsewhere.

    With a generator the tokens are chosen anew; with None every example has its own choice for good.
    Special tokens and padding are never chosen.
    """

    augments = True

    def __init__(self, text: Source, share: float, tokenizer: Any) -> None:
        self.text, self.share = text, share
        self.mask: int = tokenizer.mask_token_id
        self.vocabulary = len(tokenizer)
        self.special = torch.tensor(sorted(set(tokenizer.all_special_ids)))
        whole = text.fetch(torch.arange(len(text)), None)["input_ids"]
        self.draws = torch.rand(*whole.shape, 3, generator=torch.Generator().manual_seed(0))
        self.fingerprint = hashlib.sha256(f"masked {share} {text.fingerprint}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.text)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        batch = self.text.fetch(indices, rng)
        ids = batch["input_ids"]
        draws = self.draws[indices] if rng is None else torch.rand(*ids.shape, 3, generator=rng)
        chosen = (draws[..., 0] < self.share) & ~torch.isin(ids, self.special)
        if "attention_mask" in batch:
            chosen &= batch["attention_mask"].bool()
        how = draws[..., 1]
        other = (draws[..., 2] * self.vocabulary).long().clamp(max=self.vocabulary - 1)
        seen = torch.where(chosen & (how < REPLACED), self.mask, ids)
        seen = torch.where(chosen & (how >= REPLACED) & (how < RANDOM), other, seen)
        return batch | {"input_ids": seen, "labels": ids.masked_fill(~chosen, IGNORED)}
