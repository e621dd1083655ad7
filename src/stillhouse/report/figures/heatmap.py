"""A table of values from 0 to 1, as shades."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.report import numbers
from stillhouse.report.figures.frame import WIDE, Figure, about, card, finite, scrolling
from stillhouse.report.svg import WIDTH, drawing, escape, tag

LETTER = 5.7
LONGEST = 14
"""Letters of a label that are shown: its end, which tells module paths apart."""
NUMBERED = 30
"""Width of a cell that has room for its number."""
TALLEST = 26
STRONGEST = 0.5
"""Of the colour of an arm, behind a number that must stay readable."""


def heatmap(title: str, together: Sequence[Figure]) -> list[str]:
    """One card an arm."""
    return [_heatmap(title, figure) for figure in together]


def _heatmap(title: str, figure: Figure) -> str:
    rows, columns = ([_short(str(name)) for name in figure[key]] for key in ("rows", "columns"))
    values = [[finite(value) for value in row] for row in figure["values"]]
    if not rows or not columns or [len(row) for row in values] != [len(columns)] * len(rows):
        raise ValueError(f"{len(rows)} rows, {len(columns)} columns, and values of {[len(row) for row in values]}")
    wide = len(columns) > 9
    left = LETTER * max(map(len, rows)) + 12
    cell = ((WIDE if wide else WIDTH) - left - 6) / len(columns)
    height = min(TALLEST, cell)
    top, slanted = 20, max(map(len, columns)) * LETTER > cell
    bottom = top + height * len(rows)
    marks = [tag("text", escape(str(figure.get("ylabel", ""))), x=2, y=12, class_="label")]
    for i, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = top + height * i
        marks.append(tag("text", escape(name), x=left - 8, y=y + height / 2 + 4, class_="tick end"))
        for j, value in enumerate(row):
            marks += _cell(value, left + cell * j, y, cell, height, f"{figure['rows'][i]}, {figure['columns'][j]}")
    for j, name in enumerate(columns):
        x = left + cell * (j + 0.5)
        turn = f"rotate(-42 {x:.1f} {bottom + 12:.1f})" if slanted else None
        marks.append(
            tag(
                "text",
                escape(name),
                x=x,
                y=bottom + 13,
                class_="tick end" if slanted else "tick middle",
                transform=turn,
            )
        )
    deep = (10 + 0.72 * LETTER * max(map(len, columns))) if slanted else 16
    marks.append(
        tag(
            "text",
            escape(str(figure.get("xlabel", ""))),
            x=float(left + cell * len(columns)),
            y=bottom + deep + 16,
            class_="label end",
        )
    )
    best = "; ".join(
        f"{name} up to {max((v for v in row if v is not None), default=0):.2f}"
        for name, row in zip(rows, values, strict=True)
    )
    picture = drawing(title, best, marks, WIDE if wide else WIDTH, bottom + deep + 22)
    picture = tag("div", picture, class_=f"heatmap {figure['colour']}")
    body = scrolling(picture, title, "wide") if wide else picture
    body += about(str(figure.get("about", "")))
    return card(title, body, aside=escape(str(figure.get("arm", ""))), wide=wide)


def _cell(value: float | None, x: float, y: float, width: float, height: float, where: str) -> list[str]:
    """A shaded box that tells its number when pointed at, and shows it where there is room."""
    told = numbers.NOTHING if value is None else f"{value:.2f}".replace("-", numbers.MINUS)
    numbered = width >= NUMBERED
    shade = min(1.0, max(0.0, value or 0.0)) * (STRONGEST if numbered else 1.0)
    title = tag("title", escape(f"{where}: {told}"))
    box = {"x": x, "y": y, "width": width - 1, "height": height - 1}
    marks = [tag("rect", title, **box, class_="cell", fill_opacity=f"{shade:.2f}")]
    if numbered:
        marks.append(tag("text", escape(told), x=x + width / 2, y=y + height / 2 + 4, class_="number middle"))
    return marks


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else "…" + name[1 - LONGEST :]
