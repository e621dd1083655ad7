"""The figures a report can draw, by their kind.

A figure is a JSON object with `kind`, `title`, the `arm` it belongs to (where it belongs to one), and:

    lines         x [n], series {name: [n]}, xlabel, ylabel, unit ("share" prints per cent), range [low, high],
                  about
    bars, dots    labels [n], series {name: [n]}, ylabel, unit ("share" prints per cent)
    intervals     labels [n], difference [n], low [n], high [n], count [n], unit, better ("higher", "lower"),
                  against, groups (how many there are, where not all are shown)
    heatmap       rows [n], columns [m], values [n][m] from 0 to 1, xlabel, ylabel, about
    reliability   bins [{low, high, count, confidence, accuracy}], ece
    who-is-right  both, arm_only, teacher_only, neither, same_mistake: counts
    images        width, height, channels (1 or 3), pixels [[0..255, ...], ...], labels [n], columns
    text          samples [str]
    table         columns [str], rows [[...]]
    note          text

`bars` and `dots` start at zero and where the data starts, respectively; `about` says how to read a figure. Figures
of one kind and title that belong to different arms are drawn together. A missing value is null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from stillhouse.report.figures.agreement import who_is_right
from stillhouse.report.figures.calibration import reliability
from stillhouse.report.figures.categories import categories
from stillhouse.report.figures.frame import Figure, grid, note
from stillhouse.report.figures.heatmap import heatmap
from stillhouse.report.figures.images import images
from stillhouse.report.figures.intervals import intervals
from stillhouse.report.figures.lines import lines
from stillhouse.report.figures.written import remark, table, text


def gather(figures: Sequence[Figure]) -> list[list[Figure]]:
    """Figures by kind and title, in the order of the student's: it has what is measured against others as well."""
    groups: dict[tuple[str, str], list[Figure]] = {}
    for figure in sorted(figures, key=lambda figure: figure.get("arm") != "student"):
        groups[str(figure.get("kind")), str(figure.get("title", ""))] = []
    for figure in figures:
        groups[str(figure.get("kind")), str(figure.get("title", ""))].append(figure)
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
    "intervals": intervals,
    "heatmap": heatmap,
    "reliability": reliability,
    "who-is-right": who_is_right,
    "images": images,
    "text": text,
    "table": table,
    "note": remark,
}
