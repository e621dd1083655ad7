"""Differences with their intervals, a row a group."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.report import numbers
from stillhouse.report.figures.frame import Figure, about, card, finite
from stillhouse.report.svg import WIDTH, Axes, Scale, breakable, drawing, escape, tag

ROW, TOP, BOTTOM = 19, 8, 40
LETTER = 5.7
"""Width of a letter, roughly."""
LONGEST = 20
"""Letters of a label that are shown."""
CHANCE = 10
"""From this many groups on, the card says how many intervals exclude zero by chance."""


def intervals(title: str, together: Sequence[Figure]) -> list[str]:
    """One card an arm."""
    return [_intervals(title, figure) for figure in together]


Row = tuple[str, int, float | None, float | None, float | None]
"""Label, examples, difference, low, high."""


def _rows(figure: Figure) -> list[Row]:
    columns = (figure[key] for key in ("labels", "count", "difference", "low", "high"))
    rows = [(str(label), n, finite(d), finite(a), finite(b)) for label, n, d, a, b in zip(*columns, strict=True)]
    if not rows:
        raise ValueError("there is no group")
    return rows


def _intervals(title: str, figure: Figure) -> str:
    rows = _rows(figure)
    unit, share = str(figure.get("unit", "")), figure.get("unit") == "share"
    known = [v for _, _, *values in rows for v in values if v is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    margin = 0.05 * (high - low) or 0.01
    texts = numbers.differences(unit, *(mean or 0.0 for _, _, mean, _, _ in rows))
    left = LETTER * max(len(_named(label, n)) for label, n, *_ in rows) + 8
    right = WIDTH - LETTER * max(map(len, texts)) - 10
    bottom = TOP + ROW * len(rows)
    size = 100 if share else 1
    across = Scale(size * (low - margin), size * (high + margin), left, right)
    marks = _axis(across, bottom, "points" if share else unit)
    for place, (row, text) in enumerate(zip(rows, texts, strict=True)):
        marks.append(_row(row, text, across, size, TOP + ROW * (place + 0.5), str(figure.get("better", ""))))
    arm, against = str(figure.get("arm", "")), str(figure.get("against", "control"))
    told = f"{arm} {numbers.MINUS} {against}".strip()
    spoken = "; ".join(f"{row[0]} {text}" for row, text in zip(rows, texts, strict=True))
    picture = drawing(title, f"{told}: {spoken}", marks, WIDTH, bottom + BOTTOM)
    return card(title, picture + about(_reading(figure, len(rows))), aside=breakable(told))


def _reading(figure: Figure, shown: int) -> str:
    """What the rows are, and what many of them do."""
    groups = int(figure.get("groups") or shown)
    said = "95\u202f% paired intervals over the examples of this one run; the number of examples in brackets."
    if groups > shown:
        said = f"The {shown} of {groups} groups that gained and lost most. {said}"
    if groups >= CHANCE:
        said += " About one in twenty excludes zero by chance alone."
    return said


def _axis(across: Scale, bottom: float, unit: str) -> list[str]:
    axes = Axes(across, Scale(0, 1, bottom, TOP), unit)
    return [*axes.marks(y_ticks=False), tag("line", x1=across(0), x2=across(0), y1=TOP, y2=bottom, class_="ideal")]


def _row(row: Row, text: str, across: Scale, size: float, y: float, better: str) -> str:
    label, n, mean, low, high = row
    marks = tag("text", escape(_named(label, n)), x=across.start - 8, y=y + 4, class_="tick end")
    reading = "unclear"
    if low is not None and high is not None:
        if better and (low > 0 or high < 0):
            reading = "better" if (low > 0) == (better == "higher") else "worse"
        marks += tag("line", x1=across(size * low), x2=across(size * high), y1=y, y2=y, class_="reach")
    if mean is not None:
        marks += tag("circle", cx=across(size * mean), cy=y, r=3.6, class_="dot")
        marks += tag("text", escape(text), x=float(across.end + 8), y=y + 4, class_="value")
    spoken = f"{label}, {n} examples: {text}" + ("" if reading == "unclear" else f", {reading}")
    return tag("g", tag("title", escape(spoken)) + marks, class_=f"row {reading}")


def _named(label: str, n: int) -> str:
    short = label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"
    return f"{short} ({n})"
