"""Did the teacher help? One sentence, and what it rests on."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from stillhouse.evaluation.statistics import Interval
from stillhouse.report import numbers
from stillhouse.report.files import RunFiles

Reading = Literal["better", "worse", "unclear", "unknown"]

FAR = 5
"""How many times the negative log-likelihood of guessing is a sign of training that diverged."""


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
    name, untold = chosen(run), failure(run) or "Whether the teacher helped cannot be told."
    if "control" not in arms:
        why = "No control arm was run: the same student, budget and seed without the teacher. Set control: true."
        if told := _beside_a_rival(run):
            why = "This recipe runs no control arm, so it cannot tell whether the teacher helped: see its other arms."
        return Verdict("unknown", failure(run) or told or untold, " ".join(filter(None, (why, _doubts(run)))))
    if name is None:
        why = "No metric is shared by both arms." if arms["student"] else "The recipe's 'evaluate' is empty."
        return Verdict("unknown", untold, why)
    interval = interval_of(run.effect[name])
    found = reading(name, interval)
    student, control = (numbers.metric(name, arms[arm].get(name)) for arm in ("student", "control"))
    start = {
        "better": "The teacher helped",
        "worse": "The teacher did harm",
        "unclear": "No clear effect of the teacher",
        "unknown": "With the teacher",
    }[found]
    label = numbers.heading(name)
    headline = f"{start}: {label} {student}, against {control} without it."
    return Verdict(found, failure(run) or headline, " ".join(filter(None, (_detail(name, interval), _doubts(run)))))


def failure(run: RunFiles) -> str:
    """That the student is broken or knows no more than guessing does; "" where neither is seen."""
    student, control = run.arms["student"], run.arms.get("control", {})
    lost = [numbers.measure(name).label for name, value in student.items() if _is_lost(value)]
    if lost:
        return f"The student is broken: its {', '.join(lost)} {'is' if len(lost) == 1 else 'are'} not finite."
    if not guesses(run, "student"):
        return ""
    own, other = (numbers.metric("accuracy", arm.get("accuracy")) for arm in (student, control))
    against = f" Without the teacher: {other}." if "accuracy" in control else ""
    return f"The student is no better than chance: accuracy {own}, where guessing gives {_chance(run)}.{against}"


def guesses(run: RunFiles, arm: str) -> bool:
    """Whether an arm's accuracy is within two standard errors of chance, one in the number of classes, or below."""
    accuracy = run.arms.get(arm, {}).get("accuracy")
    if run.classes is None or not numbers.is_number(accuracy):
        return False
    chance = 1 / run.classes
    return (
        accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / run.examples) if run.examples else accuracy <= chance
    )


def _chance(run: RunFiles) -> str:
    assert run.classes is not None, "asked only where the classes are known"
    return numbers.metric("accuracy", 1 / run.classes)


def _doubts(run: RunFiles) -> str:
    """What else speaks against believing the numbers."""
    said = []
    nll = run.arms["student"].get("nll")
    if run.classes and numbers.is_number(nll) and nll > FAR * math.log(run.classes):
        guessing = f"{numbers.metric('nll', math.log(run.classes))} nats"
        said.append(
            f"The student's negative log-likelihood is {numbers.metric('nll', nll)}, where guessing has {guessing}: "
            "its training seems to have diverged."
        )
    if guesses(run, "teacher"):
        said.append(
            "The teacher is no better than chance either."
            if guesses(run, "student")
            else "The teacher is no better than chance."
        )
    return " ".join(said)


def _is_lost(value: object) -> bool:
    return numbers.is_number(value) and not math.isfinite(value)


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
    return [name for e in _expected(plan) if "control." in e for name in re.findall(r"\bstudent\.(\w+)", e)]


def _expected(plan: dict[str, Any]) -> list[str]:
    """The proof's expectations."""
    return [str(expectation) for expectation in (plan.get("proof") or {}).get("expect") or []]


def _beside_a_rival(run: RunFiles) -> str:
    """The student beside the first arm that the recipe's proof compares it with on one metric; "" where none is."""
    compared = [re.match(r"student\.(\w+)\s*[<>]=?\s*(\w+)\.(\w+)", text) for text in _expected(run.plan)]
    for name, rival, other in (found.groups() for found in compared if found):
        if name == other and rival != "control" and name in run.arms["student"] and name in run.arms.get(rival, {}):
            own, theirs = (numbers.metric(name, run.arms[arm][name]) for arm in ("student", rival))
            return f"The student's {numbers.heading(name)}: {own}, against {theirs} of '{rival}'."
    return ""


def _detail(name: str, interval: Interval) -> str:
    mean, *bounds = interval_texts(name, interval)
    difference = f"Difference {mean} {numbers.change_unit(name)}".rstrip()
    if not bounds:
        return f"{difference}; one run gives no interval for it. Repeat it over seeds before you believe it."
    return (
        f"{difference} (95\u202f% interval {' to '.join(bounds)}, over the examples of this one run; "
        "the luck of training is not in it: repeat over seeds for that)."
    )
