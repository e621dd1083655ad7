"""The views of text encoders."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import IGNORED, Batch, Facts, Signals
from stillhouse.views.kinds import Encoder, Sentence
from stillhouse.views.model import named_tensors


class EncoderView:
    """Token ids in; logits of the whole text [B, C], or of each position [B, T, V], which stay where they are.

    A label of -100 at a position is not to be predicted.
    """

    fingerprint = "encoder"

    def __init__(self, kind: Encoder | Sentence | None = None, facts: Facts | None = None) -> None:
        del kind, facts

    def inputs(self, batch: Batch) -> dict[str, Any]:
        return {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}

    def read(self, output: Any, batch: Batch) -> Signals:
        return named_tensors(output)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        labels = batch["labels"]
        return labels, labels != IGNORED if labels.dim() == 2 else None


class SentenceView(EncoderView):
    """`embedding` [B, D]: the mean of the last layer's states over the tokens that are no padding, of length one.

    Reimers & Gurevych 2019 (Sentence-BERT, arXiv:1908.10084), section 3.
    """

    fingerprint = "sentence"

    def read(self, output: Any, batch: Batch) -> Signals:
        mean = mean_of_tokens(output.last_hidden_state, batch.get("attention_mask"))
        return named_tensors(output) | {"embedding": functional.normalize(mean, dim=-1)}


def mean_of_tokens(states: Tensor, mask: Tensor | None) -> Tensor:
    """The mean [B, D] of states [B, T, D] over the tokens where the mask [B, T] is not zero (None: over all)."""
    seen = states.new_ones(states.shape[:2]) if mask is None else mask.to(states.dtype)
    return (states * seen.unsqueeze(-1)).sum(1) / seen.sum(1, keepdim=True).clamp(min=1)
