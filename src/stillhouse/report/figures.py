"""The figures a report can draw, by their kind.

A figure is a JSON object with `kind`, `title`, the `arm` it belongs to (where it belongs to one), and:

    lines         x [n], series {name: [n]}, xlabel, ylabel
    bars, dots    labels [n], series {name: [n]}, ylabel, unit ("share" prints per cent)
    reliability   bins [{low, high, count, confidence, accuracy}], ece
    who-is-right  both, arm_only, teacher_only, neither, same_mistake: counts
    images        width, height, channels (1 or 3), pixels [[0..255, ...], ...], labels [n], columns
    text          samples [str]
    table         columns [str], rows [[...]]
    note          text

`bars` and `dots` start at zero and where the data starts, respectively. Figures of one kind and title
that belong to different arms are drawn together. A missing value is null.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, groupby
from typing import Any

from stillhouse.report import numbers
from stillhouse.report.svg import HEIGHT, WIDTH, Axes, Scale, drawing, escape, path, scale_for, tag

Figure = dict[str, Any]
ARMS = ("teacher", "student", "control")
PALETTE = 6
WIDE = 760
HOVERS = 60
"""Most places along a curve that tell their values when pointed at."""
MARKED = 12
"""Most places of a curve that are marked with dots."""


def gather(figures: Sequence[Figure]) -> list[list[Figure]]:
    """Figures by kind and title, in the order of their first appearance."""
    groups: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        groups.setdefault((str(figure.get("kind")), str(figure.get("title", ""))), []).append(figure)
    return list(groups.values())


def draw(together: Sequence[Figure]) -> list[str]:
    """Figures of one kind and title as cards. One that cannot be drawn says so in its place."""
    kind, title = str(together[0].get("kind")), str(together[0].get("title", ""))
    if kind not in KINDS:
        return [note(f"The figure {title!r} is of a kind this report does not draw: {kind!r}.")]
    try:
        return KINDS[kind](title, together)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return [note(f"The figure {title!r} ({kind}) could not be drawn: {type(error).__name__}: {error}.")]


def note(text: str) -> str:
    return tag("p", escape(text), class_="note")


def scrolling(content: str, what: str, classes: str = "") -> str:
    """Content in a box that scrolls where it is too wide; shaded edges and the arrow keys say and do so."""
    return tag("div", content, class_=f"scroll {classes}".rstrip(), role="region", aria_label=what, tabindex=0)


def colours(names: Iterable[str]) -> dict[str, str]:
    """The class that gives each its colour: the three usual arms have one everywhere, others take turns."""
    others = (f"series-{place % PALETTE}" for place in count())
    return {name: f"arm-{name}" if name in ARMS else next(others) for name in names}


def card(title: str, body: str, *, aside: str = "", wide: bool = False, names: Sequence[tuple[str, str]] = ()) -> str:
    """One figure with its caption, and a legend of (name, colour class) where there is more than one series."""
    caption = tag("figcaption", tag("span", escape(title), class_="title") + tag("span", aside, class_="aside"))
    keys = "".join(tag("li", tag("i", class_=cls) + escape(name)) for name, cls in names)
    legend = tag("ul", keys, class_="legend") if len(names) > 1 else ""
    return tag("figure", caption + body + legend, class_="card wide" if wide else "card")


# --- curves --------------------------------------------------------------------------------


def curves(title: str, x: Sequence[float], series: Mapping[str, Sequence[float | None]], **options: Any) -> str:
    """Lines over a common x. Options: xlabel, ylabel, aside, classes {name: colour class}."""
    clean = {name: [_finite(v) for v in values] for name, values in series.items()}
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


def _finite(value: Any) -> float | None:
    return float(value) if numbers.is_number(value) and math.isfinite(value) else None


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


def grid(cards: Sequence[str]) -> str:
    return tag("div", "".join(cards), class_="grid")


# --- bars and dots -------------------------------------------------------------------------


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
    known = [v for values in series.values() for v in map(_finite, values) if v is not None]
    y = scale_for(known, bottom, 22, zero=not dots)
    if share:
        y = Scale(max(0.0, y.low), min(1.0, y.high), y.start, y.end)
    axes = Axes(Scale(0, len(labels), 46, width - 12), y, "", str(first.get("ylabel", "")), share=share)
    marks = axes.marks(x_ticks=False)
    for place, label in enumerate(labels):
        marks.append(_category(label, axes.x(place + 0.5), bottom, slanted))
        marks += (_dots if dots else _bars)(
            axes, place, label, {n: _finite(v[place]) for n, v in series.items()}, classes
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
        text = f"{100 * value:.1f} %" if axes.share else numbers.plain(value)
        told = tag("title", escape(f"{label}, {name}: {text}"))
        stems.append(tag("line", x1=x, x2=x, y1=y, y2=axes.y.start, class_=f"stem {classes[name]}"))
        dots.append(tag("circle", told, cx=x, cy=y, r=3.6, class_=f"dot {classes[name]}"))
    return stems + dots


def _spoken(labels: Sequence[str], series: dict[str, list[Any]], share: bool) -> str:
    """The values of a chart in words."""
    scale, unit = (100, "%") if share else (1, "")
    told = []
    for name, values in series.items():
        each = (
            f"{k} {v * scale:.3g}{unit}" for k, v in zip(labels, map(_finite, values), strict=True) if v is not None
        )
        told.append(f"{name}: " + ", ".join(each))
    return "; ".join(told)


# --- calibration and agreement -------------------------------------------------------------


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
            about = tag("title", escape(f"{arm} {_bin_text(b)}".strip()))
            marks.append(tag("circle", about, cx=x, cy=y, r=radius, class_=f"dot clear {cls}"))
        names.append((f"{arm}, ECE {100 * figure['ece']:.1f}\u202f%", cls))
        told.append(f"{arm} expected calibration error {100 * figure['ece']:.1f} %")
    picture = drawing(title, "; ".join(told), marks, WIDTH, HEIGHT + 40)
    return [card(title, picture, aside="dot area: share of examples", names=names)]


def _bin_text(b: dict[str, float]) -> str:
    where = f"{100 * b['low']:.0f} to {100 * b['high']:.0f} %"
    return (
        f"{b['count']} examples at {where}: confidence {100 * b['confidence']:.1f} %, right {100 * b['accuracy']:.1f} %"
    )


def who_is_right(title: str, together: Sequence[Figure]) -> list[str]:
    """Two by two: is the arm right, is the teacher right."""
    return [_who_is_right(title, figure) for figure in together]


def _who_is_right(title: str, figure: Figure) -> str:
    arm = str(figure.get("arm", "arm"))
    counts = {key: int(figure[key]) for key in ("both", "arm_only", "teacher_only", "neither")}
    total = sum(counts.values()) or 1

    def cell(key: str) -> str:
        share = counts[key] / total
        shown = tag("b", f"{counts[key]:,}") + tag("span", f"{100 * share:.1f}\u202f%")
        return tag("td", shown, class_=f"{key} {figure['colour']}", style=f"--share:{max(0.08, share) ** 0.5:.2f}")

    head = tag("tr", "<td></td>" + "".join(tag("th", t, scope="col") for t in ("teacher right", "teacher wrong")))
    right = tag("tr", tag("th", escape(f"{arm} right"), scope="row") + cell("both") + cell("arm_only"))
    wrong = tag("tr", tag("th", escape(f"{arm} wrong"), scope="row") + cell("teacher_only") + cell("neither"))
    caption = tag("caption", escape(f"{title}: {arm} and teacher"), class_="hidden")
    table = tag("table", caption + head + right + wrong, class_="square")
    mistakes = ""
    if counts["neither"] and "same_mistake" in figure:
        same = f"{figure['same_mistake']} of {counts['neither']}"
        mistakes = tag("p", escape(f"Where both are wrong, they make the same mistake {same} times."), class_="small")
    return card(f"{title}: {arm}", table + mistakes)


# --- samples -------------------------------------------------------------------------------


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
    return card(f"{title}: {arm}" if arm else title, tag("img", src=source, alt=alt, class_="sheet"), aside=f"{count}")


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


def sections(figures: Sequence[Figure], classes: Mapping[str, str]) -> dict[str, str]:
    """The drawn figures by the part of the page they belong to: "samples" or "measurements".

    `classes` gives an arm's colour class; a figure of no arm is drawn in the first colour of the turn.
    """
    painted = [f | {"colour": classes.get(str(f.get("arm")), "series-0")} for f in figures]
    order = {"images": 0, "text": 0, "table": 2, "note": 3}
    where = sorted(painted, key=lambda f: order.get(str(f.get("kind")), 1))
    parts = groupby(where, key=lambda f: "samples" if f.get("kind") in ("images", "text") else "measurements")
    return {name: grid([c for group in gather(list(members)) for c in draw(group)]) for name, members in parts}


KINDS: dict[str, Callable[[str, Sequence[Figure]], list[str]]] = {
    "lines": lines,
    "bars": categories,
    "dots": categories,
    "reliability": reliability,
    "who-is-right": who_is_right,
    "images": images,
    "text": text,
    "table": table,
    "note": remark,
}
