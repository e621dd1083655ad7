"""Images as a figure of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def sheet(title: str, images: Tensor, *, columns: int, labels: Sequence[str] = ()) -> dict[str, Any]:
    """The figure `images`: [N, C, H, W] in [0, 1] (cut to it), in rows of `columns`, each with its label if any."""
    count, channels, height, width = images.shape
    pixels = (255 * images.clamp(0, 1)).round().permute(0, 2, 3, 1).reshape(count, -1).int().tolist()
    size = {"width": width, "height": height, "channels": channels}
    figure = {"kind": "images", "title": title, **size, "pixels": pixels, "columns": columns}
    return figure | ({"labels": list(labels)} if labels else {})
