"""Contact sheets of images."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

from stillhouse.report.figures.frame import Figure, card
from stillhouse.report.svg import tag


def images(title: str, together: Sequence[Figure]) -> list[str]:
    """Contact sheets, one an arm."""
    return [_sheet(title, figure) for figure in together]


def _sheet(title: str, figure: Figure) -> str:
    count, arm = len(figure["pixels"]), str(figure.get("arm", ""))
    columns = int(figure.get("columns") or max(1, round(math.sqrt(count * figure["height"] / figure["width"]))))
    source = "data:image/png;base64," + base64.b64encode(contact_sheet(figure, columns)).decode()
    alt = f"{count} images{' by ' + arm if arm else ''}, {figure['width']} x {figure['height']} pixels each"
    if figure.get("labels"):
        alt += "; asked for: " + ", ".join(map(str, figure["labels"]))
    return card(
        f"{title}: {arm}" if arm else title, tag("img", src=source, alt=alt, class_="sheet"), aside=f"{count} images"
    )


def contact_sheet(figure: Figure, columns: int) -> bytes:
    """All images of a figure as one PNG, a transparent pixel between them.

    Raises ValueError where an image has not width x height x channels values (by row, channels last).
    """
    from PIL import Image

    width, height, channels = int(figure["width"]), int(figure["height"]), int(figure.get("channels", 1))
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise ValueError(f"images have 1 or 3 channels, not {channels}")
    rows = math.ceil(len(figure["pixels"]) / columns)
    sheet = Image.new(mode + "A" if mode == "RGB" else "LA", (columns * (width + 1) - 1, rows * (height + 1) - 1))
    for place, pixels in enumerate(figure["pixels"]):
        if len(pixels) != width * height * channels:
            raise ValueError(f"image {place} has {len(pixels)} values, not {width} x {height} x {channels}")
        data = bytes(min(255, max(0, round(v))) for v in pixels)
        tile = Image.frombytes(mode, (width, height), data).convert(sheet.mode)
        sheet.paste(tile, ((place % columns) * (width + 1), (place // columns) * (height + 1)))
    packed = io.BytesIO()
    sheet.save(packed, "PNG", optimize=True)
    return packed.getvalue()
