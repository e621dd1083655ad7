"""What is read rather than seen: samples of text, tables and notes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stillhouse.report import numbers
from stillhouse.report.figures.frame import Figure, card, scrolling
from stillhouse.report.svg import escape, tag


def text(title: str, together: Sequence[Figure]) -> list[str]:
    """Samples of text, a column an arm."""
    cards = []
    for figure in together:
        arm = str(figure.get("arm", ""))
        samples = "".join(tag("li", tag("pre", escape(sample))) for sample in figure["samples"])
        cards.append(
            card(f"{title}: {arm}" if arm else title, tag("ol", samples, class_=f"samples {figure['colour']}"))
        )
    return cards


def remark(title: str, together: Sequence[Figure]) -> list[str]:
    """A sentence about the measurements; arms that say the same say it once."""
    by_text: dict[str, list[str]] = {}
    for figure in together:
        by_text.setdefault(str(figure["text"]), []).append(str(figure.get("arm", "")))
    said = [f"{title} ({', '.join(filter(None, arms))}): {words}" for words, arms in by_text.items()]
    if len(by_text) == 1:
        said = [f"{title}: {words}" for words in by_text]
    return [tag("p", escape(words), class_="small full") for words in said]


def table(title: str, together: Sequence[Figure]) -> list[str]:
    """Rows of several arms in one table, the arm in front."""
    together = [f for f in together if f["columns"] == together[0]["columns"]]
    arms = any(f.get("arm") for f in together)
    head = [*(["arm"] if arms else []), *map(str, together[0]["columns"])]
    rows = [[*([f.get("arm", "")] if arms else []), *row] for f in together for row in f["rows"]]
    return [rows_table(title, head, rows)]


def rows_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A plain table: numbers to the right, the first column heads its row."""
    numeric = [all(numbers.is_number(r[i]) or r[i] is None for r in rows) for i in range(len(columns))]
    head = "".join(
        tag("th", escape(c), scope="col", class_="num" if n else None) for c, n in zip(columns, numeric, strict=True)
    )
    body = []
    for row in rows:
        cells = [tag("th", escape(_cell(row[0])), scope="row")]
        cells += [
            tag("td", escape(_cell(v)), class_="num" if n else None) for v, n in zip(row[1:], numeric[1:], strict=True)
        ]
        body.append(tag("tr", "".join(cells)))
    inside = tag("caption", escape(title)) + tag("thead", tag("tr", head)) + tag("tbody", "".join(body))
    return scrolling(tag("table", inside), title, "full")


def _cell(value: Any) -> str:
    if numbers.is_number(value):
        return numbers.plain(value) if math.isfinite(value) else str(value)
    return numbers.NOTHING if value is None else str(value)
