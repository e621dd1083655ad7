"""Did the teacher help? One sentence, and what it rests on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from stillhouse.evaluation.statistics import Interval
from stillhouse.report import numbers
from stillhouse.report.files import RunFiles

Reading = Literal["better", "worse", "unclear", "unknown"]


def reading(name: str, interval: Interval) -> Reading:
    """What a difference says: better or worse only where its interval excludes zero and the metric has a good side."""
    better = numbers.measure(name).better
    if not better or interval.low is None:
        return "unknown"
    if not interval.clear:
        return "unclear"
    return "better" if (interval.mean > 0) == (better == "higher") else "worse"


def interval_of(change: dict[str, Any]) -> Interval:
    """The interval in an entry of summary.json's `effect`."""
    return Interval(float(change["difference"]), change.get("low"), change.get("high"))


def interval_texts(name: str, interval: Interval) -> list[str]:
    """The mean and, where there are any, the bounds of a difference, to the same decimal."""
    return numbers.changes(name, *(v for v in interval if v is not None))


@dataclass(frozen=True)
class Verdict:
    """The answer of one run."""

    reading: Reading
    headline: str
    detail: str


def verdict(run: RunFiles) -> Verdict:
    """The answer on the metric that `chosen` names."""
    arms = run.arms
    if "student" not in arms:
        return Verdict("unknown", "This run has no result yet.", "It has not come to its end: summary.json is missing.")
    if "control" not in arms:
        why = "No control arm was run: the same student, budget and seed without the teacher. Set control: true."
        return Verdict("unknown", "Whether the teacher helped cannot be told.", why)
    name = chosen(run)
    if name is None:
        return Verdict("unknown", "Whether the teacher helped cannot be told.", "No metric is shared by both arms.")
    interval = interval_of(run.effect[name])
    found = reading(name, interval)
    student, control = (numbers.metric(name, arms[arm].get(name)) for arm in ("student", "control"))
    start = {
        "better": "The teacher helped",
        "worse": "The teacher did harm",
        "unclear": "No clear effect of the teacher",
        "unknown": "With the teacher",
    }[found]
    label = numbers.measure(name).label
    return Verdict(found, f"{start}: {label} {student}, against {control} without it.", _detail(name, interval))


def chosen(run: RunFiles) -> str | None:
    """The metric the headline speaks of.

    The first on which the recipe's proof compares the student with the control; else the first of the effect
    that has a good side and an interval, then one with a good side, then any.
    """
    sided = [name for name in run.effect if numbers.measure(name).better]
    bounded = [name for name in sided if run.effect[name].get("low") is not None]
    promised = [name for name in _promised(run.plan) if name in run.effect]
    return next(iter([*promised, *bounded, *sided, *run.effect]), None)


def _promised(plan: dict[str, Any]) -> list[str]:
    """The metrics on which the proof's expectations compare the student with the control."""
    expectations = [str(e) for e in (plan.get("proof") or {}).get("expect") or []]
    return [name for e in expectations if "control." in e for name in re.findall(r"\bstudent\.(\w+)", e)]


def _detail(name: str, interval: Interval) -> str:
    mean, *bounds = interval_texts(name, interval)
    difference = f"Difference {mean} {numbers.change_unit(name)}".rstrip()
    if not bounds:
        return f"{difference}; one run gives no interval for it. Repeat it over seeds before you believe it."
    return (
        f"{difference} (95\u202f% interval {' to '.join(bounds)}, over the examples of this one run; "
        "the luck of training is not in it: repeat over seeds for that)."
    )
