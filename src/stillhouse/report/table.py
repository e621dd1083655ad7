"""The arms of a run as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse.evaluation.statistics import BOUNDS, Interval, is_bound
from stillhouse.report import numbers
from stillhouse.report.verdict import interval_of, interval_texts

ROOM = 120
"""Columns of a terminal that a table keeps to."""


def arms_table(summary: Mapping[str, Any]) -> str:
    """Metrics by row, arms by column, and student minus control with its interval, as plain text.

    `summary` is what summary.json holds.
    """
    arms = summary.get("arms", {})
    order = [a for a in ("teacher", "student", "control") if a in arms]
    order += [a for a in arms if a not in order]
    effect = summary.get("effect") or {}
    head = ["", *order, *([f"student {numbers.MINUS} control"] if effect else [])]
    rows = []
    for name in metric_names(arms):
        row = [numbers.heading(name), *(value_text(name, arms[a]) for a in order)]
        if effect:
            row.append(difference(name, interval_of(effect[name])) if name in effect else "")
        rows.append(row)
    return aligned([head, *rows])


def metric_names(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Every metric of any arm, once: the student's order first. The bounds of another metric stand beside it."""
    first = [arms[a] for a in ("student",) if a in arms]
    names = dict.fromkeys(name for arm in [*first, *arms.values()] for name in arm)
    return [name for name in names if not is_bound(name, names)]


def bounds(name: str, metrics: Mapping[str, Any]) -> list[str]:
    """A metric's own interval, where its measurement gave `<name>_low` and `<name>_high`."""
    ends = [metrics.get(name + end) for end in BOUNDS]
    return [] if None in ends else [numbers.metric(name, end) for end in ends]


def value_text(name: str, metrics: Mapping[str, Any]) -> str:
    """A metric of an arm, with its own interval where it has one."""
    text, ends = numbers.metric(name, metrics.get(name)), bounds(name, metrics)
    return f"{text} [{', '.join(ends)}]" if ends else text


def difference(name: str, interval: Interval) -> str:
    """A difference with its bounds: "+1.8 [+0.4, +3.1] points"."""
    mean, *bounds = interval_texts(name, interval)
    text = f"{mean} [{', '.join(bounds)}]" if bounds else mean
    return f"{text} {numbers.change_unit(name)}".rstrip()


def aligned(rows: Sequence[Sequence[str]], room: int = ROOM) -> str:
    """Columns side by side under a rule: the first to the left, the others to the right.

    What is wider than the room goes on below, under the first column again.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n\n".join(_block([[row[i] for i in (0, *part)] for row in rows]) for part in _parts(widths, room))


def _parts(widths: Sequence[int], room: int) -> list[list[int]]:
    """The columns after the first, in parts that fit beside it; a column that is too wide stands alone."""
    parts, left = [[]], room - widths[0]
    for column, width in enumerate(widths[1:], start=1):
        if parts[-1] and width + 2 > left:
            parts.append([])
            left = room - widths[0]
        parts[-1].append(column)
        left -= width + 2
    return parts


def _block(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])
