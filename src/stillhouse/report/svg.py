"""Drawing: scales, axes and marks as SVG text. Colours come from the page's style sheet."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360, 230
VOID = ("img", "br")
"""Elements of HTML that have no content and no end tag."""
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def escape(text: object) -> str:
    """Text that is safe between tags and in quoted attributes."""
    return html.escape(UNPRINTABLE.sub("\ufffd", str(text)), quote=True)


def breakable(name: object) -> str:
    """A name, escaped, that a narrow place may break after its underscores."""
    return escape(name).replace("_", "_\u200b")


def tag(name: str, content: str = "", /, **attributes: object) -> str:
    """One element. Attribute values are escaped, the content is not; `class_` gives class, `a_b` gives a-b."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}>" if name in VOID else f"<{name}{given}>{content}</{name}>"


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def drawing(title: str, about: str, marks: Iterable[str], width: float = WIDTH, height: float = HEIGHT) -> str:
    """An SVG image that scales with its column and says in words what it shows."""
    content = tag("title", escape(title)) + tag("desc", escape(about)) + "".join(marks)
    return tag("svg", content, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=f"{title}. {about}")


@dataclass(frozen=True)
class Scale:
    """Maps values to places, linearly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high != low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 4) -> list[float]:
        """Round values inside the scale, about as many as asked for."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            factors = (1,) if math.log10(self.high / self.low) > 2.2 else (1, 3)
            found = [m * 10.0**p for p in powers for m in factors if self.low <= m * 10.0**p <= self.high]
            return found[:: math.ceil(len(found) / (2 * count))]
        step = nice_step((self.high - self.low) / count) if self.high > self.low else 1.0
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 12) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def nice_step(rough: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)


def scale_for(values: Sequence[float], start: float, end: float, *, zero: bool = False) -> Scale:
    """A scale that holds the values; logarithmic where they are positive and span a factor of 50 or more."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low > 0 and high / low >= 50 and not zero:
        return Scale(low / 1.15, high * 1.15, start, end, log=True)
    if zero or (low >= 0 and low < 0.35 * high):
        low = min(low, 0.0)
    if high <= low:
        high, low = low + (abs(low) or 1.0) * 0.5, low - (abs(low) or 1.0) * 0.5
    margin = 0.04 * (high - low)
    return Scale(low if low == 0 else low - margin, high + margin, start, end)


def tick_text(value: float, *, share: bool = False) -> str:
    """What stands at a tick."""
    if share:
        return f"{100 * value:g}%"
    size = abs(value)
    if size >= 1e4 or 0 < size < 1e-3:
        mantissa, exponent = f"{value:.0e}".split("e")
        if size >= 1e4 and size < 1e6:
            return f"{value / 1000:g}k"
        return f"1e{int(exponent)}" if mantissa == "1" else f"{mantissa}e{int(exponent)}"
    return f"{value:g}".replace("-", "\u2212")


@dataclass(frozen=True)
class Axes:
    """A plot area: a scale each way, with grid lines, tick labels and the names of the axes."""

    x: Scale
    y: Scale
    xlabel: str = ""
    ylabel: str = ""
    share: bool = False
    """Whether y is printed in per cent."""
    x_share: bool = False
    x_at: tuple[float, ...] = ()
    """Where x has its ticks; by default at round values."""

    def marks(self, *, x_ticks: bool = True, y_ticks: bool = True) -> list[str]:
        """The grid and the labels; draw these first."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        found = []
        for value in self.y.ticks() if y_ticks else ():
            y = self.y(value)
            found.append(tag("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
            text = tick_text(value, share=self.share)
            found.append(tag("text", escape(text), x=left - 6, y=y + 3.5, class_="tick end"))
        if x_ticks:
            for value in self.x_at or self.x.ticks(5):
                x = self.x(value)
                found.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"))
                text = tick_text(value, share=self.x_share)
                found.append(tag("text", escape(text), x=x, y=bottom + 15, class_="tick middle"))
        found.append(tag("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
        if self.xlabel:
            found.append(tag("text", escape(self.xlabel), x=right, y=bottom + 30, class_="label end"))
        if self.ylabel:
            found.append(tag("text", escape(self.ylabel), x=left, y=top - 8, class_="label"))
        return found


def path(points: Iterable[tuple[float, float] | None], **attributes: object) -> str:
    """A line through the points, broken where a point is missing."""
    steps, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        steps.append(f"{pen}{point[0]:.1f},{point[1]:.1f}")
        pen = "L"
    return tag("path", d="".join(steps), fill="none", **attributes)
