"""Does DisWOT's score order students as distillation does?

    python benchmarks/diswot.py [--seeds 3] [--steps 800]

Perceptrons of two hidden layers, wide and narrow in either place, are distilled from one teacher on drawn characters
(package matplotlib). For each seed: Kendall's rank correlation of their accuracy on the validation split with the score
of the untrained architecture, and, for comparison, with their number of parameters.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from scipy.stats import kendalltau

from side_by_side import save
from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe

STUDENTS = [(w, h) for w in (12, 24, 48, 96) for h in (12, 24, 48, 96)]
"""Widths of the two hidden layers."""


def recipe(seed: int, steps: int) -> Recipe:
    """One run: the teacher, and an arm for each student."""

    def student(widths: tuple[int, int]) -> dict:
        return {"network": {"kind": "mlp", "hidden": list(widths)}}

    first, *others = STUDENTS
    return Recipe.model_validate(
        {
            "name": "diswot",
            "data": {"kind": "glyphs", "size": 12, "train": 4960, "validation": 4000, "test": 100, "shift": 0},
            "teacher": {
                "network": {"kind": "mlp", "hidden": [256, 256]},
                "weights": {"kind": "trained", "steps": 1500, "batch_size": 64},
            },
            "student": student(first),
            "method": {"kind": "match", "terms": [{"by": "kl", "temperature": 2.0}]},
            "train": {"steps": steps, "batch_size": 64, "optimizer": {"kind": "adamw", "lr": 4e-3}},
            "evaluate": [
                "accuracy",
                "cost",
                {"kind": "diswot", "features": "features.layers.3", "teacher_features": "features.layers.3"},
            ],
            "evaluate_on": "validation",
            "control": False,
            "arms": {name(widths): {"student": student(widths)} for widths in others},
            "seed": seed,
        }
    )


def name(widths: tuple[int, int]) -> str:
    return "student" if widths == STUDENTS[0] else f"mlp_{widths[0]}_{widths[1]}"


def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--steps", type=int, default=800)
    options = asked.parse_args()
    rows, orders = {}, {"diswot_score": [], "parameters": []}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            arms = distill(recipe(seed, options.steps), out=Path(folder) / "run").summary["arms"]
        found = {widths: arms[name(widths)] for widths in STUDENTS}
        rows[f"seed {seed}"] = {f"{w} {h}": found[w, h] for w, h in STUDENTS}
        for metric, taus in orders.items():
            pairs = [(arm[metric], arm["accuracy"]) for arm in found.values()]
            taus.append(float(kendalltau(*zip(*pairs, strict=True)).statistic))
    told = {metric: {"kendall_tau": taus, "mean": statistics.mean(taus)} for metric, taus in orders.items()}
    save("diswot", {**told, "steps": options.steps, "students": rows})


if __name__ == "__main__":
    main()
