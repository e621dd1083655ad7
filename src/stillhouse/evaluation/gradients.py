"""Whether the terms of an objective pulled the student one way while it trained."""

from __future__ import annotations

from stillhouse.engine.conflict import COSINE
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.kinds import GradientConflict

DRAWN = 6
"""Pairs of terms in the figure: those that are most in conflict."""


def gradient_conflict(kind: GradientConflict, arm: Arm, context: Context) -> Findings:
    """`gradient_cosine`: the mean over pairs of terms and looks; `gradient_conflict`: the share that is negative.

    Both are of what the loop logged of the arm's own stage, where looks that fall on one line of the log are
    averaged. Nothing for an arm that trained on one term, or did not train.
    """
    del kind
    lines = [line for line in context.logged.get(arm.name, ()) if any(map(_is_cosine, line.get("losses", ())))]
    names = sorted({name for line in lines for name in line["losses"] if _is_cosine(name)})
    series = {name.removeprefix(COSINE): [line["losses"].get(name) for line in lines] for name in names}
    values = [value for column in series.values() for value in column if value is not None]
    if not values:
        return Findings()
    lowest = sorted(series, key=lambda name: _mean([v for v in series[name] if v is not None]))[:DRAWN]
    of = ""
    if len(series) == 1:
        of = f": {lowest[0]}"
    elif len(series) > DRAWN:
        of = f" ({DRAWN} lowest of {len(series)} pairs)"
    figure = {
        "kind": "lines",
        "title": f"Cosine between the terms' gradients{of}",
        "x": [line["step"] for line in lines],
        "series": {name: series[name] for name in lowest},
        "xlabel": "step",
        "ylabel": "cosine",
        "range": [-1.0, 1.0],
        "about": "Below 0, two terms pull the student's parameters apart.",
    }
    return Findings(
        metrics={
            "gradient_cosine": _mean(values),
            "gradient_conflict": _mean([float(value < 0) for value in values]),
        },
        figures=[figure],
    )


def _is_cosine(name: str) -> bool:
    return name.startswith(COSINE)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
