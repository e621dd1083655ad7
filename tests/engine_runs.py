"""Small real runs that the engine's tests start, in this process or in another that they kill."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch

from stillhouse.engine import checkpoint
from stillhouse.recipe.execute import distill, resume
from stillhouse.recipe.schema import Recipe


def recipe(**train: Any) -> Recipe:
    """Digits, a pretrained teacher, a student with dropout and an average: every kind of state there is."""
    settings = {"steps": 40, "batch_size": 16, "ema": 0.9, "checkpoint_steps": 1, "log_every": 7}
    return Recipe.model_validate(
        {
            "name": "small",
            "data": {"kind": "digits", "shift": 1},
            "teacher": {
                "network": {"kind": "mlp", "hidden": [32]},
                "weights": {"kind": "trained", "steps": 20, "checkpoint_steps": 3, "optimizer": {"kind": "sgd"}},
            },
            "student": {"network": {"kind": "mlp", "hidden": [16], "dropout": 0.3}},
            "method": {
                "kind": "match",
                "terms": [
                    {"signal": "logits", "by": "kl", "temperature": 2.0, "weight": {"start": 1.3, "end": 0.2}},
                    {"signal": "labels", "by": "cross_entropy", "weight": 0.5},
                ],
            },
            "train": settings | train,
            "evaluate": ["accuracy"],
            "control": False,
        }
    )


def start(folder: str | Path, **train: Any) -> None:
    """Run, or go on with, the small recipe in a folder."""
    torch.set_num_threads(1)
    if (Path(folder) / "recipe.yaml").exists():
        resume(folder, progress=False)
    else:
        distill(recipe(**train), out=folder, device="cpu", progress=False)


def start_and_die(folder: str, flush: int) -> None:
    """The same, killed (by itself, with SIGKILL) in the middle of writing a file: at the given flush to disk."""
    count = 0
    real = checkpoint.sync

    def dying(path: Path) -> None:
        nonlocal count
        count += 1
        if count == flush:
            os.kill(os.getpid(), signal.SIGKILL)
        real(path)

    checkpoint.sync = dying
    start(folder)
