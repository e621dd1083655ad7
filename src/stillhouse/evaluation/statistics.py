"""Intervals for the difference between two arms: over the examples of one run, and over seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stillhouse.evaluation.metrics import measures

if TYPE_CHECKING:
    from stillhouse.evaluation.findings import Findings

RESAMPLES = 2000
CELLS = 2**22
"""Most resampled values held at once: 32 MiB."""
BOUNDS = ("_low", "_high")
"""What a measurement appends to a metric's name for the bounds of its own 95 % interval."""


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval; no bounds where they cannot be told."""

    mean: float
    low: float | None
    high: float | None

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def paired_interval(a: Sequence[float], b: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Interval:
    """The mean of a - b with its percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13).

    a and b hold one value an example, in the same order: examples are resampled, and both arms with them,
    so what makes an example hard for both cancels. It covers the draw of the examples, not the luck of
    training: for that, `t_interval` over seeds. Fewer than two examples give no bounds.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must be as many on both sides, not {len(a)} and {len(b)}")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if difference.size < 2:
        return Interval(float(difference.mean()), None, None)
    rng = np.random.default_rng(seed)
    rows = max(1, CELLS // difference.size)
    means = [
        difference[rng.integers(difference.size, size=(min(rows, RESAMPLES - done), difference.size))].mean(axis=1)
        for done in range(0, RESAMPLES, rows)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(difference.mean()), float(low), float(high))


def paired_shares_interval(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of a - b for values that are 0 or 1, with the adjusted Wald interval of Bonett & Price 2012.

    (doi:10.3102/1076998611411915): with one more pair of each kind that differs, among n + 2, the interval holds
    what it says in groups of a few dozen, where a bootstrap of no differing pair would be a point. It need not lie
    evenly about the mean. No value at all gives no bounds.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must be as many on both sides, not {len(a)} and {len(b)}")
    if not a:
        return Interval(math.nan, None, None)
    gained = sum(x > y for x, y in zip(a, b, strict=True))
    lost = sum(x < y for x, y in zip(a, b, strict=True))
    n = len(a)
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    reach = z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return Interval((gained - lost) / n, max(-1.0, p - q - reach), min(1.0, p - q + reach))


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of independent values (one a seed) with its Student t interval; one value gives no bounds."""
    from scipy import stats

    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Interval(mean, None, None)
    reach = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * spread(values) / math.sqrt(len(values))
    return Interval(mean, mean - reach, mean + reach)


def spread(values: Sequence[float]) -> float:
    """The sample standard deviation (n - 1); 0 for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def is_bound(name: str, names: Collection[str]) -> bool:
    """Whether a metric is a bound of another one: `frechet_low` where there is `frechet`."""
    return any(name.endswith(end) and name.removesuffix(end) in names for end in BOUNDS)


def interval_from_arms(name: str, a: Mapping[str, float], b: Mapping[str, float]) -> Interval:
    """The difference a - b of a metric, its interval from those of the two arms; no bounds where one has none.

    Zou & Donner 2008 (doi:10.1002/sim.3095), equation 3: the distances of the estimates from their bounds are
    added in squares. It holds for independent estimates and is too wide for positively correlated ones.
    """
    low, high = (name + end for end in BOUNDS)
    difference = a[name] - b[name]
    if not {low, high} <= a.keys() & b.keys():
        return Interval(difference, None, None)
    below = math.hypot(a[name] - a[low], b[high] - b[name])
    above = math.hypot(a[high] - a[name], b[name] - b[low])
    return Interval(difference, difference - below, difference + above)


def effect(student: Findings, control: Findings, *, seed: int = 0) -> dict[str, dict[str, float | None]]:
    """What the teacher changed: student minus control for each metric that both have, in the student's order.

    A metric that is a mean over examples gets a 95 % paired interval; one with an interval of its own in both
    arms gets one made of those; any other gets low and high None. What an arm costs to use is left out:
    student and control are the same network.
    """
    prices = {name for name, measure in measures().items() if measure.cost}
    changes = {}
    for name in student.metrics:
        if name not in control.metrics or name in prices or is_bound(name, student.metrics):
            continue
        if name in student.per_example and name in control.per_example:
            interval = paired_interval(student.per_example[name], control.per_example[name], seed=seed)
        else:
            interval = interval_from_arms(name, student.metrics, control.metrics)
        changes[name] = {"difference": interval.mean, "low": interval.low, "high": interval.high}
    return changes
