"""Times two or more ways of doing the same thing in one process, in turn, and compares them pair by pair."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(ways: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of every round of every way. The ways take turns, so that a machine that drifts drifts for all."""
    for _ in range(warmup):
        for way in ways.values():
            way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        order = list(ways.items())
        for name, way in order if number % 2 == 0 else reversed(order):
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def against(seconds: dict[str, list[float]], ours: str, bare: str) -> dict[str, float]:
    """Medians, and the median over rounds of ours / bare with the middle half of those ratios."""
    ratios = [a / b for a, b in zip(seconds[ours], seconds[bare], strict=True)]
    quarters = statistics.quantiles(ratios, n=4)
    return {
        f"{ours}_ms": 1000 * statistics.median(seconds[ours]),
        f"{bare}_ms": 1000 * statistics.median(seconds[bare]),
        "ratio": statistics.median(ratios),
        "ratio_low": quarters[0],
        "ratio_high": quarters[2],
        "extra_us": 1e6 * statistics.median(a - b for a, b in zip(seconds[ours], seconds[bare], strict=True)),
    }


def machine() -> dict[str, object]:
    """What the figures depend on."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "load": os.getloadavg()[0],
    }


def save(name: str, results: Mapping[str, object]) -> None:
    """Print the figures and keep them under benchmarks/results/."""
    text = json.dumps({"machine": machine(), **results}, indent=1)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
