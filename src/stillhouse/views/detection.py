"""The view of an object detector."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stillhouse.engine.contracts import Batch, Facts, Signals
from stillhouse.errors import StillhouseError
from stillhouse.objectives.boxes import from_centre
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Detection
from stillhouse.views.model import named_tensors


class DetectionView(ImageView):
    """As `ImageView`; beside what the network names there are `boxes` [B, N, 4], corners in shares of width and height,
    and `scores` [B, N, C], the probability of each class.

    Of Hugging Face detectors, `pred_boxes` are centres and sizes. Logits of one more than the data's classes are a
    softmax whose last is no object (DETR, YOLOS); as many are sigmoids (dense detectors, Deformable and RT-DETR).
    """

    def __init__(self, kind: Detection, facts: Facts | None = None) -> None:
        super().__init__(kind.image(), facts)
        assert facts is not None, "the classes are the data's"
        self.classes = facts.classes
        self.fingerprint = f"detection {self.fingerprint}"

    def read(self, output: Any, batch: Batch) -> Signals:
        found = named_tensors(output)
        if "pred_boxes" in found:
            found["boxes"] = from_centre(found["pred_boxes"])
        if "boxes" not in found:
            raise StillhouseError(
                "the network names no `boxes` (nor `pred_boxes`), so it is no detector: take `gfl` or `hf-detector`"
            )
        return found | {"scores": self._scores(found["logits"])}

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return batch["labels"], None

    def _scores(self, logits: Tensor) -> Tensor:
        if logits.shape[-1] == self.classes + 1:
            return logits.softmax(-1)[..., :-1]
        return logits.sigmoid()
