"""The view of a network that reads one field of the batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stillhouse.engine.contracts import Batch, Facts, Signals
from stillhouse.errors import StillhouseError
from stillhouse.views.kinds import Field
from stillhouse.views.model import named_tensors


class FieldView:
    """A field of the batch as it is; the output is the logits, or names its tensors."""

    def __init__(self, kind: Field, facts: Facts | None = None) -> None:
        del facts
        self.field, self.truth = kind.field, kind.truth
        self.fingerprint = kind.field

    def inputs(self, batch: Batch) -> dict[str, Any]:
        if self.field not in batch:
            raise StillhouseError(f"the view shows {self.field!r}, and the batch has {', '.join(sorted(batch))}")
        return {"": batch[self.field]}

    def read(self, output: Any, batch: Batch) -> Signals:
        return named_tensors(output)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return batch[self.truth], None
