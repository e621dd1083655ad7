"""Curves over a common x."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse.report import numbers
from stillhouse.report.figures.frame import Figure, card, colours, finite, note
from stillhouse.report.svg import HEIGHT, WIDTH, Axes, Scale, drawing, escape, path, scale_for, tag

HOVERS = 60
"""Most places along a curve that tell their values when pointed at."""
MARKED = 12
"""Most places of a curve that are marked with dots."""


def curves(title: str, x: Sequence[float], series: Mapping[str, Sequence[float | None]], **options: Any) -> str:
    """Lines over a common x. Options: xlabel, ylabel, aside, classes {name: colour class}."""
    clean = {name: [finite(v) for v in values] for name, values in series.items()}
    ys = [v for values in clean.values() for v in values if v is not None]
    if not ys or not x:
        return note(f"{title}: there is nothing to draw.")
    classes = options.get("classes") or colours(clean)
    y = scale_for(ys, HEIGHT - 40, 26)
    low, high = (min(x), max(x)) if max(x) > min(x) else (x[0] - 1, x[0] + 1)
    across = Scale(low, high, 46, WIDTH - 12)
    ylabel = options.get("ylabel", "") + (" (log scale)" if y.log else "")
    axes = Axes(across, y, options.get("xlabel", ""), ylabel, x_at=_ticks(x, across))
    marks = axes.marks()
    for name, values in clean.items():
        points = [None if v is None else (axes.x(a), y(v)) for a, v in zip(x, values, strict=True)]
        if len(x) <= MARKED:
            marks += [tag("circle", cx=p[0], cy=p[1], r=2.8, class_=f"dot {classes[name]}") for p in points if p]
        marks.append(path(points, class_=f"line {classes[name]}"))
    marks += _hovers(axes, x, clean)
    ends = "; ".join(f"{n} from {_text(values, 0)} to {_text(values, -1)}" for n, values in clean.items())
    picture = drawing(title, f"{options.get('xlabel', 'x')} {x[0]:g} to {x[-1]:g}: {ends}", marks)
    return card(title, picture, aside=options.get("aside", ""), names=[(n, classes[n]) for n in clean])


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
        values = [f"{name}: {_text(v, place)}" for name, v in series.items() if v[place] is not None]
        text = "\n".join([f"{axes.xlabel or 'x'} {x[place]:g}", *values])
        left = max(axes.x.start, axes.x(x[place]) - width / 2)
        box = {"x": left, "width": min(width, axes.x.end - left), "y": axes.y.end, "height": axes.y.start - axes.y.end}
        marks.append(tag("rect", tag("title", escape(text)), **box, class_="hover"))
    return marks


def _text(values: Sequence[float | None], place: int) -> str:
    value = values[place]
    return "nothing" if value is None else numbers.plain(value)


def lines(title: str, together: Sequence[Figure]) -> list[str]:
    drawn = []
    for figure in together:
        series = figure["series"]
        arm = figure.get("arm", "")
        classes = colours(series) if len(series) > 1 else dict.fromkeys(series, figure["colour"])
        labels = {key: str(figure.get(key, "")) for key in ("xlabel", "ylabel")}
        aside = escape(arm) if len(together) > 1 else ""
        drawn.append(curves(title, figure["x"], series, aside=aside, classes=classes, **labels))
    return drawn
