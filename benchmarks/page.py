"""Writes docs/benchmarks.md from benchmarks/results/*.json.

python benchmarks/page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from side_by_side import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Made by `python benchmarks/page.py` from `benchmarks/results/`. Each script times its contestants in turn in one
process and reports medians, and ratios pair by pair; absolute times are of one machine and its load at the time.
Run them again with `python benchmarks/overhead.py`, `startup.py`, `store.py` and `scaling.py`.
[torchdistill](torchdistill.md) has a page of its own.
"""
NOTES = {
    "overhead": "A step of the engine against a hand-written PyTorch loop with the same networks, batches, loss and "
    "fused optimizer. Targets: vision at most 1.03, language and two-players at most 1.05, linear at most 100 us more.",
    "startup": "Whole processes. Targets: help 0.3 s, list papers 0.6 s, check kd-digits 4 s, first step 8 s.",
    "store": "An epoch of training with stored targets against training the student alone. Target: at most 1.1.",
    "scaling": "Time of a step against batch size, the student's multiply-adds, and examples in the data; "
    "`off_line` is the largest distance from the least-squares line, as a share. Target: at most 0.1.",
}

TARGETS: dict[str, list[tuple[str, str, float]]] = {
    "overhead": [
        ("linear", "extra_us", 100),
        ("vision", "ratio", 1.03),
        ("language", "ratio", 1.05),
        ("two-players", "ratio", 1.05),
    ],
    "startup": [
        ("help", "median_s", 0.3),
        ("list papers", "median_s", 0.6),
        ("check kd-digits", "median_s", 4),
        ("first step", "median_s", 8),
    ],
    "store": [(f"{case} wall ratio_to_student_alone", "stored", 1.1) for case in ("digits", "cifar10", "text")],
    "scaling": [(f"{what} ours", "off_line", 0.1) for what in ("batch", "student_multiply_adds", "examples")],
}
"""By script: row, column, and the most it should be."""


def judged(rows: dict[str, dict[str, Any]], targets: list[tuple[str, str, float]]) -> str:
    """Which targets the numbers miss."""
    measured = [(name, rows[name][column], limit) for name, column, limit in targets if name in rows]
    missed = [f"{name} ({shown(value)} against {limit:g})" for name, value, limit in measured if value > limit]
    return f"**Missed: {', '.join(missed)}.**" if missed else "Every target is met."


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """A row for each case, a column for each number."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(shown(row.get(column, "")) for column in columns) + " |")
    return lines


def shown(value: Any) -> str:
    """A number with four digits; a list of them."""
    if isinstance(value, list):
        return ", ".join(shown(each) for each in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def flat(results: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """The innermost dicts by their path."""
    if not any(isinstance(value, dict) for value in results.values()):
        return {prefix: results}
    rows: dict[str, dict[str, Any]] = {}
    for name, value in results.items():
        if isinstance(value, dict):
            rows |= flat(value, f"{prefix} {name}".strip())
    return rows


def main() -> None:
    lines = [HEAD]
    for name, note in NOTES.items():
        file = RESULTS / f"{name}.json"
        if not file.exists():
            continue
        results = json.loads(file.read_text())
        machine = results.pop("machine")
        told = ", ".join(f"{key} {shown(value)}" for key, value in machine.items())
        rows = flat(results)
        verdict = judged(rows, TARGETS[name])
        lines += [f"## {name}", "", note, "", *table(rows), "", verdict, "", f"Machine: {told}.", ""]
    PAGE.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
