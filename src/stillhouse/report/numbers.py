"""How numbers are printed: the same everywhere a run is shown."""

from __future__ import annotations

import math
from typing import TypeGuard

from stillhouse.evaluation.kinds import Measure
from stillhouse.evaluation.metrics import measures

MINUS = "\u2212"
NOTHING = "\u2013"
"""What stands where a value is missing."""
PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def measure(name: str) -> Measure:
    """How a metric is called and read; a metric nobody registered is called by its own name."""
    return measures().get(name) or Measure(name.replace("_", " "))


def heading(name: str) -> str:
    """What stands before a metric's values: its label, with the unit where they do not carry it."""
    told = measure(name)
    return f"{told.label} (nats)" if told.unit == "nats" else told.label


def metric(name: str, value: object) -> str:
    """A metric's value, with its unit."""
    if not is_number(value):
        return NOTHING if value is None else str(value)
    unit = measure(name).unit
    if not math.isfinite(value):
        return str(value)
    if unit == "share":
        return share(value)
    if unit == "count":
        return big(value)
    return f"{plain(value)}\u202fms" if unit == "ms" else plain(value)


def spread(name: str, mean: float, deviation: float) -> str:
    """A mean and its standard deviation to the same decimal, with the unit: "97.1 ± 0.4 %"."""
    text = metric(name, mean)
    if deviation == 0 or measure(name).unit == "count":
        return text
    number, _, unit = text.partition("\u202f")
    decimals = len(number.partition(".")[2]) if "e" not in number else 2
    size = 100 * deviation if measure(name).unit == "share" else deviation
    return " ".join(filter(None, (f"{number} ± {size:.{decimals}f}", unit)))


def changes(name: str, *values: float) -> list[str]:
    """Differences between values of a metric, signed, all to the same decimal; shares differ by points."""
    return differences(measure(name).unit, *values)


def differences(unit: str, *values: float) -> list[str]:
    """Differences in a unit, signed, all to the same decimal; shares differ by points."""
    shown = [100 * v if unit == "share" else v for v in values]
    largest = max((abs(v) for v in shown if math.isfinite(v)), default=0.0)
    if unit == "count" or largest >= 1e5 or 0 < largest < 1e-4:
        return [_signed(v, big(abs(v)) if unit == "count" else f"{abs(v):.2e}") for v in shown]
    digits = 1 if unit == "share" or largest == 0 else min(4, max(0, 2 - math.floor(math.log10(largest))))
    return [_signed(v, f"{abs(v):.{digits}f}") for v in shown]


def _signed(value: float, size: str) -> str:
    """A number's size with its sign, none where it rounds to zero."""
    if not math.isfinite(value):
        return str(value)
    zero = all(c in "0." for c in size)
    return size if zero else ("+" if value > 0 else MINUS) + size


def share(value: float) -> str:
    """A share in per cent."""
    return f"{100 * value:.1f}\u202f%".replace("-", MINUS)


def change_unit(name: str) -> str:
    """The word after a difference: "points" for shares."""
    return {"share": "points", "ms": "ms"}.get(measure(name).unit, "")


def plain(value: float) -> str:
    """Whole numbers as they are; others to three significant digits or so, mostly without an exponent."""
    size = abs(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f").replace("-", MINUS)
    if size == 0:
        return "0"
    if size >= 1e5 or size < 1e-4:
        return f"{value:.2e}".replace("-", MINUS)
    digits = max(0, 2 - math.floor(math.log10(size))) if size < 100 else 1
    return f"{value:.{min(digits, 4)}f}".replace("-", MINUS)


def big(value: float) -> str:
    """A count: whole up to 9,999, then with k, M, G, T: 9.12 k, 1.23 M."""
    if abs(value) < 10_000:
        return f"{value:,.0f}".replace(",", "\u202f").replace("-", MINUS)
    power = min(len(PREFIXES) - 1, int(math.log10(abs(value)) // 3))
    scaled = value / 1000**power
    digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return f"{scaled:.{digits}f}\u202f{PREFIXES[power]}".replace("-", MINUS)


def seconds(value: float) -> str:
    """A duration: 0.42 s, 41 s, 3 min 5 s, 2 h 10 min."""
    if value < 10:
        return f"{value:.2g}\u202fs"
    whole = round(value)
    if whole < 60:
        return f"{whole}\u202fs"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}\u202fmin {rest}\u202fs"
    return f"{minutes // 60}\u202fh {minutes % 60}\u202fmin"


def named(name: str, value: object) -> str:
    """A number of the ledger or of the environment, by what its name says it counts."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not is_number(value):
        return NOTHING if value is None else str(value)
    if not math.isfinite(value):
        return str(value)
    if name == "seconds" or name.endswith("_seconds"):
        return seconds(value)
    if name in ("flops", "tokens", "examples", "forwards", "parameters", "bytes"):
        return big(value)
    if isinstance(value, int):
        return str(value)
    return plain(value)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)
