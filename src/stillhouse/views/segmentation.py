"""The view of a network that names a class for every pixel."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import IGNORED, Batch, Facts, Signals
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Segmentation
from stillhouse.views.model import named_tensors


class SegmentationView(ImageView):
    """As `ImageView`, but `logits` [B, C, h, w] become [B, H, W, C], a position for each pixel of the image.

    Maps of another size are brought to the image's by bilinear interpolation, as the models in circulation expect.
    Terms on logits then give a value a pixel, of which those with a label count.
    """

    def __init__(self, kind: Segmentation, facts: Facts | None = None) -> None:
        super().__init__(kind.image(), facts)
        self.fingerprint = f"segmentation {self.fingerprint}"

    def read(self, output: Any, batch: Batch) -> Signals:
        found = named_tensors(output)
        size = batch[self.field].shape[-2:]
        if found["logits"].shape[-2:] != size:
            found["logits"] = functional.interpolate(found["logits"], size=size, mode="bilinear", align_corners=False)
        return found | {"logits": found["logits"].movedim(1, -1)}

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return batch["labels"], batch["labels"] != IGNORED
