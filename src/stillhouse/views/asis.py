"""The view of a network that takes a batch as it comes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stillhouse.engine.contracts import Batch, Signals
from stillhouse.views.model import named_tensors

NOT_SEEN = ("index", "labels")


class AsIsView:
    """All fields but `index` and `labels`, by their names; a single one as the positional argument.

    The output is the logits, names its tensors, or carries `.logits`; nothing is cut or shifted.
    """

    fingerprint = "as is"

    def inputs(self, batch: Batch) -> dict[str, Any]:
        seen = {name: value for name, value in batch.items() if name not in NOT_SEEN}
        return {"": next(iter(seen.values()))} if len(seen) == 1 else seen

    def read(self, output: Any, batch: Batch) -> Signals:
        return named_tensors(output)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return batch["labels"], None
