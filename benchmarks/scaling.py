"""Does the time of a step grow in proportion to the work, and stay the same for more data?

    python benchmarks/scaling.py [--rounds 7]

For an MLP student and teacher: the step's time above the engine's fixed cost against the batch size and against the
student's multiply-adds, each doubled several times, beside a bare loop at the same sizes; and against the number of
examples, where it should not change. `off_line` is the largest distance from the least-squares line, as a share.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from overhead import classification
from side_by_side import interleaved, save
from stillhouse.engine.contracts import Facts
from stillhouse.engine.settings import SGD
from stillhouse.networks.kinds import MLP
from stillhouse.sources.arrays import ImageArray

STEPS = 10
SIDE = 32


def ways(batch: int, hidden: int, examples: int, label: str) -> dict:
    """Ours and bare at one size."""
    facts = Facts("classification", (3, SIDE, SIDE), 10)
    source = ImageArray(torch.rand(examples, *facts.shape), torch.randint(10, (examples,)), fingerprint="noise")
    student, teacher = MLP(hidden=[hidden, hidden]).build(facts), MLP(hidden=[512, 512]).build(facts)
    made = classification(student, teacher, source, batch, STEPS, facts, SGD(lr=1e-3))
    return {f"{side} {label}": way for side, way in made.items()}


def multiply_adds(hidden: int) -> int:
    """Of one forward pass of the student."""
    return 3 * SIDE * SIDE * hidden + hidden * hidden + 10 * hidden


def line(sizes: list[float], times: list[float]) -> dict[str, object]:
    """The least-squares line through (size, time), and how far the points lie off it."""
    x, y = np.array(sizes), np.array(times)
    slope, start = np.polyfit(x, y, 1)
    off = np.abs(y - (start + slope * x)) / y
    return {"sizes": sizes, "ms": [1000 * t for t in times], "fixed_ms": 1000 * start, "off_line": float(off.max())}


def sweep(settings: dict[str, dict[str, int]], sizes: list[float], rounds: int) -> dict[str, object]:
    """Times every setting in turn, ours and bare."""
    made: dict = {}
    for label, setting in settings.items():
        made |= ways(**setting, label=label)
    seconds = interleaved(made, rounds=rounds)
    rows = {}
    for side in ("ours", "bare"):
        times = [float(np.median(seconds[f"{side} {label}"])) / STEPS for label in settings]
        rows[side] = line(sizes, times)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    batches, widths, counts = [64, 128, 256, 512], [256, 512, 1024, 2048], [1024, 2048, 4096, 8192]
    by_batch = {f"batch {b}": {"batch": b, "hidden": 512, "examples": 2048} for b in batches}
    by_width = {f"width {h}": {"batch": 128, "hidden": h, "examples": 2048} for h in widths}
    by_count = {f"examples {n}": {"batch": 128, "hidden": 512, "examples": n} for n in counts}
    save(
        "scaling",
        {
            "batch": sweep(by_batch, [float(b) for b in batches], rounds),
            "student_multiply_adds": sweep(by_width, [float(multiply_adds(h)) for h in widths], rounds),
            "examples": sweep(by_count, [float(n) for n in counts], rounds),
        },
    )


if __name__ == "__main__":
    main()
