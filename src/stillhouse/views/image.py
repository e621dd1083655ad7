"""The view of an image classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Facts, Signals
from stillhouse.errors import StillhouseError
from stillhouse.views.kinds import Image
from stillhouse.views.model import named_tensors

TOLD = ("visible", "hidden", "trade_off")
"""Fields of a batch that networks are given which take them: which patches are seen, and what an image is to be."""


class ImageView:
    """(image - mean) / std by channel; the output is the logits, names its tensors, or carries `.logits`."""

    def __init__(self, kind: Image, facts: Facts | None = None) -> None:
        self.mean = torch.tensor(kind.mean).view(-1, 1, 1)
        self.std = torch.tensor(kind.std).view(-1, 1, 1)
        self.plain = all(m == 0 for m in kind.mean) and all(s == 1 for s in kind.std)
        self.field = kind.field
        self.fingerprint = f"{kind.field} mean={kind.mean} std={kind.std}"

    def inputs(self, batch: Batch) -> dict[str, Any]:
        if self.field not in batch:
            raise StillhouseError(
                f"the view shows {self.field!r}, and the batch has {', '.join(sorted(batch))}; "
                "data of kind two-views gives second_image"
            )
        image = batch[self.field]
        told = {name: batch[name] for name in TOLD if name in batch}
        if self.plain:
            return {"": image} | told
        if self.mean.device != image.device:
            self.mean, self.std = self.mean.to(image.device), self.std.to(image.device)
        return {"": (image - self.mean) / self.std} | told

    def read(self, output: Any, batch: Batch) -> Signals:
        return named_tensors(output)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return batch["labels"], None

    def image(self, shown: Tensor) -> Tensor:
        """Back from what a network sees, or gives, [B, C, H, W], to images in [0, 1]; what is outside is cut off."""
        return (shown * self.std.to(shown.device) + self.mean.to(shown.device)).clamp(0, 1)
