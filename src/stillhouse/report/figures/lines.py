"""Curves over a common x."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse.report import numbers
from stillhouse.report.figures.frame import Figure, about, card, colours, finite, note
from stillhouse.report.svg import HEIGHT, WIDTH, Axes, Scale, drawing, escape, path, scale_for, tag

HOVERS = 60
"""Most places along a curve that tell their values when pointed at."""
MARKED = 12
"""Most places of a curve that are marked with dots."""


def curves(title: str, x: Sequence[float], series: Mapping[str, Sequence[float | None]], **options: Any) -> str:
    """Lines over a common x.

    Options: xlabel, ylabel, aside, classes {name: colour class}, range (low, high) in place of the values' own,
    share (whether y is printed in per cent), about (how to read it).
    """
    clean = {name: [finite(v) for v in values] for name, values in series.items()}
    ys = [v for values in clean.values() for v in values if v is not None]
    if not ys or not x:
        return note(f"{title}: there is nothing to draw.")
    classes = options.get("classes") or colours(clean)
    share = bool(options.get("share"))
    bounds = options.get("range")
    y = Scale(bounds[0], bounds[1], HEIGHT - 40, 26) if bounds else scale_for(ys, HEIGHT - 40, 26)
    low, high = (min(x), max(x)) if max(x) > min(x) else (x[0] - 1, x[0] + 1)
    across = Scale(low, high, 46, WIDTH - 12)
    ylabel = options.get("ylabel", "") + (" (log scale)" if y.log else "")
    axes = Axes(across, y, options.get("xlabel", ""), ylabel, share=share, x_at=_ticks(x, across))
    marks = axes.marks()
    if y.low < 0 < y.high:
        marks.append(tag("line", x1=across.start, x2=across.end, y1=y(0), y2=y(0), class_="ideal"))
    for name, values in clean.items():
        points = [None if v is None else (axes.x(a), y(v)) for a, v in zip(x, values, strict=True)]
        if len(x) <= MARKED:
            marks += [tag("circle", cx=p[0], cy=p[1], r=2.8, class_=f"dot {classes[name]}") for p in points if p]
        marks.append(path(points, class_=f"line {classes[name]}"))
    marks += _hovers(axes, x, clean)
    ends = "; ".join(f"{n} from {_text(values, 0, share)} to {_text(values, -1, share)}" for n, values in clean.items())
    picture = drawing(title, f"{options.get('xlabel', 'x')} {x[0]:g} to {x[-1]:g}: {ends}", marks)
    read = about(options.get("about", ""))
    return card(title, picture, read, aside=options.get("aside", ""), names=[(n, classes[n]) for n in clean])


def _ticks(x: Sequence[float], across: Scale) -> tuple[float, ...]:
    """Whole numbers alone where x is counted; the one place where there is one."""
    if max(x) == min(x):
        return (x[0],)
    counted = all(float(value).is_integer() for value in x)
    return tuple(tick for tick in across.ticks(5) if not counted or tick.is_integer())


def _hovers(axes: Axes, x: Sequence[float], series: dict[str, list[float | None]]) -> list[str]:
    """Invisible strips over the plot that tell the values beneath them."""
    stride = max(1, math.ceil(len(x) / HOVERS))
    width = (axes.x.end - axes.x.start) / max(1, math.ceil(len(x) / stride))
    marks = []
    for place in range(0, len(x), stride):
        values = [f"{name}: {_text(v, place, axes.share)}" for name, v in series.items() if v[place] is not None]
        text = "\n".join([f"{axes.xlabel or 'x'} {x[place]:g}", *values])
        left = max(axes.x.start, axes.x(x[place]) - width / 2)
        box = {"x": left, "width": min(width, axes.x.end - left), "y": axes.y.end, "height": axes.y.start - axes.y.end}
        marks.append(tag("rect", tag("title", escape(text)), **box, class_="hover"))
    return marks


def _text(values: Sequence[float | None], place: int, share: bool) -> str:
    value = values[place]
    if value is None:
        return "nothing"
    return numbers.share(value) if share else numbers.plain(value)


def lines(title: str, together: Sequence[Figure]) -> list[str]:
    """A card each; in one where every figure is a single unnamed curve of its arm over the same x."""
    if all(list(f["series"]) == [""] and f["x"] == together[0]["x"] for f in together):
        arms = [str(f.get("arm", "")) for f in together]
        series = {arm: f["series"][""] for arm, f in zip(arms, together, strict=True)}
        return [_card(title, together[0], series, {arm: f["colour"] for arm, f in zip(arms, together, strict=True)})]
    drawn = []
    for figure in together:
        series = figure["series"]
        classes = colours(series) if len(series) > 1 else dict.fromkeys(series, str(figure["colour"]))
        drawn.append(_card(title, figure, series, classes, str(figure.get("arm", ""))))
    return drawn


def _card(title: str, figure: Figure, series: Mapping[str, Any], classes: Mapping[str, str], aside: str = "") -> str:
    labels = {key: str(figure.get(key, "")) for key in ("xlabel", "ylabel", "about")}
    share, between = figure.get("unit") == "share", figure.get("range")
    return curves(
        title, figure["x"], series, aside=escape(aside), classes=classes, share=share, range=between, **labels
    )
