"""Whether confidence can be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stillhouse.report.figures.frame import Figure, about, card
from stillhouse.report.svg import HEIGHT, WIDTH, Axes, Scale, drawing, escape, tag


def reliability(title: str, together: Sequence[Figure]) -> list[str]:
    """Accuracy against confidence, all arms in one plot; a dot's area is its bin's share of the examples."""
    right = WIDTH - 20
    axes = Axes(Scale(0, 1, 46, right), Scale(0, 1, HEIGHT, 26), "confidence", "accuracy", share=True, x_share=True)
    marks = [*axes.marks(), tag("line", x1=46, y1=axes.y(0), x2=right, y2=axes.y(1), class_="ideal")]
    names, told = [], []
    for figure in together:
        bins, cls, arm = [b for b in figure["bins"] if b["count"]], figure["colour"], str(figure.get("arm", ""))
        total = sum(b["count"] for b in bins)
        points = [(axes.x(b["confidence"]), axes.y(b["accuracy"])) for b in bins]
        for b, (x, y) in zip(bins, points, strict=True):
            marks.append(tag("line", x1=x, x2=x, y1=y, y2=axes.y(b["confidence"]), class_=f"stem {cls}"))
            radius = 2 + 9 * math.sqrt(b["count"] / total)
            told_here = tag("title", escape(f"{arm} {_bin_text(b)}".strip()))
            marks.append(tag("circle", told_here, cx=x, cy=y, r=radius, class_=f"dot clear {cls}"))
        names.append((f"{arm}, ECE {100 * figure['ece']:.1f}\u202f%", cls))
        told.append(f"{arm} expected calibration error {100 * figure['ece']:.1f} %")
    picture = drawing(title, "; ".join(told), marks, WIDTH, HEIGHT + 40)
    how = "Above the dashed line: right more often than it says. The area of a dot is its share of the examples."
    return [card(title, picture, about(how), names=names)]


def _bin_text(b: dict[str, float]) -> str:
    where = f"{100 * b['low']:.0f} to {100 * b['high']:.0f} %"
    return (
        f"{b['count']} examples at {where}: confidence {100 * b['confidence']:.1f} %, right {100 * b['accuracy']:.1f} %"
    )
