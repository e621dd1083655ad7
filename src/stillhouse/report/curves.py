"""What was logged while training, as curves: one card a stage."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse.report import numbers
from stillhouse.report.figures.frame import ARMS, grid
from stillhouse.report.figures.lines import curves
from stillhouse.report.svg import escape

COSINE, NORM = "cosine/", "gradient_norm/"
"""How the log names the cosines between terms (the measurements draw those) and the norm of a player's gradient."""
POINTS = 300
"""Most points of a curve; more are averaged by neighbours."""


def stage_curves(lines: Sequence[Mapping[str, Any]]) -> str:
    """The losses of every stage over its steps, and what its method noted beside them."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        stages.setdefault(str(line.get("stage", "")), []).append(line)
    cards = []
    for stage, found in stages.items():
        cards += _cards(stage, found)
    return grid(cards) if cards else ""


def _cards(stage: str, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The losses with their total, and beside them what is no loss: the norm of a clipped gradient."""
    steps = [float(line.get("step", place)) for place, line in enumerate(lines)]
    every = {n: v for n, v in _series(lines).items() if not n.startswith(COSINE)}
    norms = {n.removeprefix(NORM): v for n, v in every.items() if n.startswith(NORM)}
    losses = _distinct({n: v for n, v in every.items() if not n.startswith(NORM)})
    parts = (
        (stage, losses, "loss", _aside(lines)),
        (f"{stage}: size of the gradient", norms, "norm before clipping", ""),
    )
    cards = []
    for title, series, ylabel, aside in parts:
        if series:
            x, thinned = thin(steps, series)
            classes = _classes(stage, thinned)
            cards.append(curves(title, x, thinned, xlabel="step", ylabel=ylabel, aside=aside, classes=classes))
    return cards


def _series(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    names = dict.fromkeys(name for line in lines for name in line.get("losses") or {})
    return {name: [(line.get("losses") or {}).get(name) for line in lines] for name in names}


def _distinct(losses: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    """Without the terms that are a total over again, and with "total" alone where there is one player."""
    totals = {name: values for name, values in losses.items() if name.startswith("total/")}
    terms = {n: v for n, v in losses.items() if n not in totals and not any(_equal(v, t) for t in totals.values())}
    if len(totals) == 1:
        totals = dict(zip(["total"], totals.values(), strict=True))
    return {name.replace("total/", "total, "): values for name, values in (totals | terms).items()}


def _equal(a: Sequence[float | None], b: Sequence[float | None]) -> bool:
    """Whether two curves are one to within rounding."""
    return all(
        x == y or (x is not None and y is not None and math.isclose(x, y, rel_tol=1e-5))
        for x, y in zip(a, b, strict=True)
    )


def _classes(stage: str, series: Mapping[str, object]) -> dict[str, str]:
    """A stage named after an arm has its total in the arm's colour; the terms take turns."""
    arm = next((f"arm-{name}" for name in ARMS if stage.split("-")[0] == name), "ink")
    return {n: arm if n == "total" else f"series-{i % 6}" for i, n in enumerate(series)}


def _aside(lines: Sequence[Mapping[str, Any]]) -> str:
    """How long the stage was, and how fast."""
    told = [f"{lines[-1].get('step', len(lines)):,} steps".replace(",", "\u202f")]
    speeds = [line["examples_per_second"] for line in lines if numbers.is_number(line.get("examples_per_second"))]
    if speeds:
        told.append(f"{numbers.big(round(statistics.median(speeds)))} examples/s")
    return escape(", ".join(told))


def thin(
    x: Sequence[float], series: Mapping[str, Sequence[float | None]]
) -> tuple[list[float], dict[str, list[float | None]]]:
    """The same curves with at most POINTS points: each the mean of its neighbours; x is their last."""
    size = -(-len(x) // POINTS)
    starts = range(0, len(x), size)
    thinned = {name: [_mean(values[s : s + size]) for s in starts] for name, values in series.items()}
    return [x[min(s + size, len(x)) - 1] for s in starts], thinned


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if numbers.is_number(v)]
    return sum(known) / len(known) if known else None
