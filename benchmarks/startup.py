"""How long the command takes to answer: whole processes, the median of several runs.

    python benchmarks/startup.py [--rounds 7]

Targets: --help under 0.3 s, `list papers` under 0.6 s, `check kd-digits` under 4 s, and from `run` to the first step
under 8 s (`import torch` alone is listed beside them).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import save

COMMAND = [sys.executable, "-m", "stillhouse"]
WAYS = {
    "python": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "help": [*COMMAND, "--help"],
    "list papers": [*COMMAND, "list", "papers"],
    "list recipes": [*COMMAND, "list", "recipes"],
    "check kd-digits": [*COMMAND, "check", "kd-digits"],
}


def seconds(command: list[str]) -> float:
    """Wall-clock seconds of one process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def to_first_step() -> float:
    """From starting `run` to the first line of metrics.jsonl, with a line for every step."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        changes = ["teacher.weights.log_every=1", "train.log_every=1"]
        began = time.perf_counter()
        run = subprocess.Popen(
            [*COMMAND, "run", "kd-digits", *changes, "--out", str(metrics.parent), "--quiet"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                if run.poll() is not None:
                    raise SystemExit(f"the run ended with {run.returncode} before its first step")
                time.sleep(0.01)
            return time.perf_counter() - began
        finally:
            run.kill()
            run.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in [*WAYS, "first step"]}
    for _ in range(rounds + 1):  # the first round warms the disk's cache and is dropped
        for name, command in WAYS.items():
            times[name].append(seconds(command))
        times["first step"].append(to_first_step())
    rows = {
        name: {"median_s": statistics.median(found[1:]), "least_s": min(found[1:]), "most_s": max(found[1:])}
        for name, found in times.items()
    }
    save("startup", rows)


if __name__ == "__main__":
    main()
