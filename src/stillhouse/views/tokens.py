"""The view of a causal language model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stillhouse.engine.contracts import IGNORED, Batch, Facts, Signals
from stillhouse.views.kinds import Tokens


class TokenView:
    """Token ids in; logits [B, T-1, V] for the tokens at positions 1 to T-1."""

    fingerprint = "tokens"

    def __init__(self, kind: Tokens | None = None, facts: Facts | None = None) -> None:
        del kind, facts

    def inputs(self, batch: Batch) -> dict[str, Any]:
        seen = {"input_ids": batch["input_ids"]}
        if "attention_mask" in batch:
            seen["attention_mask"] = batch["attention_mask"]
        return seen

    def read(self, output: Any, batch: Batch) -> Signals:
        logits = output if isinstance(output, Tensor) else output.logits
        return {"logits": logits[:, :-1]}

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        labels = batch["labels"][:, 1:]
        return labels, labels != IGNORED
