"""Values by category, as bars or dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse.report import numbers
from stillhouse.report.figures.frame import WIDE, Figure, card, colours, finite, scrolling
from stillhouse.report.svg import HEIGHT, WIDTH, Axes, Scale, drawing, escape, scale_for, tag


def categories(title: str, together: Sequence[Figure]) -> list[str]:
    """Values by category: bars from zero, or dots where the differences are small beside the values."""
    first = together[0]
    labels = [str(label) for label in first["labels"]]
    series, classes = _by_arm(together)
    if any(len(values) != len(labels) for values in series.values()) or not labels:
        raise ValueError(f"{len(labels)} labels, and series of {sorted({len(v) for v in series.values()})} values")
    dots, share = first["kind"] == "dots", first.get("unit") == "share"
    wide = len(labels) * (2 if dots else len(series)) > 44 or max(map(len, labels)) * len(labels) > 110
    width = WIDE if wide else WIDTH
    slanted = max(map(len, labels)) * 6.2 > 0.9 * (width - 58) / len(labels)
    bottom = HEIGHT - (min(64, 16 + 4.4 * max(map(len, labels))) if slanted else 28)
    known = [v for values in series.values() for v in map(finite, values) if v is not None]
    y = scale_for(known, bottom, 22, zero=not dots)
    if share:
        y = Scale(max(0.0, y.low), min(1.0, y.high), y.start, y.end)
    axes = Axes(Scale(0, len(labels), 46, width - 12), y, "", str(first.get("ylabel", "")), share=share)
    marks = axes.marks(x_ticks=False)
    for place, label in enumerate(labels):
        marks.append(_category(label, axes.x(place + 0.5), bottom, slanted))
        marks += (_dots if dots else _bars)(
            axes, place, label, {n: finite(v[place]) for n, v in series.items()}, classes
        )
    picture = drawing(title, _spoken(labels, series, share), marks, width)
    body = scrolling(picture, title, "wide") if wide else picture
    return [card(title, body, wide=wide, names=list(classes.items()))]


def _by_arm(together: Sequence[Figure]) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """The series of figures that share their labels, named by arm where there are several, and their colours."""
    series, classes = {}, {}
    for figure in together:
        if figure["labels"] != together[0]["labels"]:
            continue
        own = colours(figure["series"])
        for name, values in figure["series"].items():
            arm = figure.get("arm", "") if len(together) > 1 or not name else ""
            full = " ".join(filter(None, (arm, name)))
            series[full] = values
            classes[full] = own[name] if len(own) > 1 else figure["colour"]
    return series, classes


def _category(label: str, x: float, bottom: float, slanted: bool) -> str:
    if slanted:
        short = label if len(label) <= 13 else label[:12] + "…"
        turn = f"rotate(-42 {x:.1f} {bottom + 12:.1f})"
        return tag("text", escape(short), x=x, y=bottom + 12, class_="tick end", transform=turn)
    return tag("text", escape(label), x=x, y=bottom + 15, class_="tick middle")


def _bars(axes: Axes, place: int, label: str, values: dict[str, float | None], classes: Mapping[str, str]) -> list[str]:
    marks, zero = [], axes.y(max(axes.y.low, 0.0))
    step = (axes.x(1) - axes.x(0)) * 0.76 / len(values)
    for i, (name, value) in enumerate(values.items()):
        if value is None:
            continue
        x, y = axes.x(place + 0.12) + i * step, axes.y(value)
        told = tag("title", escape(f"{label}, {name}: {numbers.plain(value)}"))
        marks.append(
            tag(
                "rect",
                told,
                x=x,
                y=min(y, zero),
                width=max(1.0, step - 1),
                height=abs(zero - y),
                class_=f"bar {classes[name]}",
            )
        )
    return marks


def _dots(axes: Axes, place: int, label: str, values: dict[str, float | None], classes: Mapping[str, str]) -> list[str]:
    step = min(9.0, (axes.x(1) - axes.x(0)) * 0.7 / len(values))
    middle = axes.x(place + 0.5) - step * (len(values) - 1) / 2
    stems, dots = [], []
    for i, (name, value) in enumerate(values.items()):
        if value is None:
            continue
        x, y = middle + i * step, axes.y(value)
        text = numbers.share(value) if axes.share else numbers.plain(value)
        told = tag("title", escape(f"{label}, {name}: {text}"))
        stems.append(tag("line", x1=x, x2=x, y1=y, y2=axes.y.start, class_=f"stem {classes[name]}"))
        dots.append(tag("circle", told, cx=x, cy=y, r=3.6, class_=f"dot {classes[name]}"))
    return stems + dots


def _spoken(labels: Sequence[str], series: dict[str, list[Any]], share: bool) -> str:
    """The values of a chart in words."""
    scale, unit = (100, "%") if share else (1, "")
    told = []
    for name, values in series.items():
        each = (f"{k} {v * scale:.3g}{unit}" for k, v in zip(labels, map(finite, values), strict=True) if v is not None)
        told.append(f"{name}: " + ", ".join(each))
    return "; ".join(told)
