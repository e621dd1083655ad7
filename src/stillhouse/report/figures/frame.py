"""What every figure stands in: a card with its caption and legend, and its colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

from stillhouse.report import numbers
from stillhouse.report.svg import breakable, escape, tag

Figure = dict[str, Any]
ARMS = ("teacher", "student", "control")
PALETTE = 6
WIDE = 760


def note(text: str) -> str:
    return tag("p", escape(text), class_="note")


def about(text: str) -> str:
    """A line under a picture that says how to read it; nothing for no text."""
    return tag("p", escape(text), class_="small") if text else ""


def scrolling(content: str, what: str, classes: str = "") -> str:
    """Content in a box that scrolls where it is too wide; shaded edges and the arrow keys say and do so."""
    return tag("div", content, class_=f"scroll {classes}".rstrip(), role="region", aria_label=what, tabindex=0)


def colours(names: Iterable[str]) -> dict[str, str]:
    """The class that gives each its colour: the three usual arms have one everywhere, others take turns."""
    others = (f"series-{place % PALETTE}" for place in count())
    return {name: f"arm-{name}" if name in ARMS else next(others) for name in names}


def card(
    title: str,
    body: str,
    below: str = "",
    *,
    aside: str = "",
    wide: bool = False,
    names: Sequence[tuple[str, str]] = (),
) -> str:
    """One figure with its caption, a legend of (name, colour class) where there are several, and what stands below."""
    caption = tag("figcaption", tag("span", escape(title), class_="title") + tag("span", aside, class_="aside"))
    keys = "".join(tag("li", tag("i", class_=cls) + breakable(name)) for name, cls in names)
    legend = tag("ul", keys, class_="legend") if len(names) > 1 else ""
    return tag("figure", caption + body + legend + below, class_="card wide" if wide else "card")


def grid(cards: Sequence[str]) -> str:
    return tag("div", "".join(cards), class_="grid")


def finite(value: Any) -> float | None:
    """A number that can be drawn, or None."""
    return float(value) if numbers.is_number(value) and math.isfinite(value) else None
