"""The view of a network that reads a table's rows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stillhouse.engine.contracts import Batch, Facts, Signals
from stillhouse.views.kinds import Row
from stillhouse.views.model import named_tensors


class RowView:
    """`features` [B, D]; the output is the logits (or the predicted numbers), or names its tensors."""

    fingerprint = "row"

    def __init__(self, kind: Row, facts: Facts | None = None) -> None:
        del kind, facts

    def inputs(self, batch: Batch) -> dict[str, Any]:
        return {"": batch["features"]}

    def read(self, output: Any, batch: Batch) -> Signals:
        return named_tensors(output)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return batch["labels"], None
