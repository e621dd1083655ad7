"""Two processes give the losses of one with the doubled batch."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch

from stillhouse.engine.checkpoint import read_summed

CONTEXT = multiprocessing.get_context("spawn")


def train(folder: str, rank: int, world: int, port: int, batch_size: int, accumulate: int) -> None:
    """One process of a small run (no dropout, no batch norm, no augmentation: those differ by process)."""
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    from stillhouse.recipe.execute import distill
    from stillhouse.recipe.schema import Recipe

    recipe = Recipe.model_validate(
        {
            "name": "pair",
            "data": {"kind": "digits", "shift": 0},
            "teacher": {"network": {"kind": "mlp", "hidden": [32]}, "weights": {"kind": "random"}},
            "student": {"network": {"kind": "mlp", "hidden": [16]}},
            "method": {
                "kind": "match",
                "terms": [{"signal": "logits", "by": "kl"}, {"signal": "labels", "by": "cross_entropy"}],
            },
            "train": {
                "steps": 12,
                "batch_size": batch_size,
                "accumulate": accumulate,
                "optimizer": {"kind": "sgd", "lr": 0.05},
                "clip": 0.5,
                "log_every": 1,
            },
            "evaluate": ["accuracy"],
            "control": False,
        }
    )
    distill(recipe, out=folder, device="cpu", progress=False)


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["losses"]["total/student"] for line in lines]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_are_one_with_the_doubled_batch(tmp_path: Path, accumulate: int):
    single, pair = tmp_path / "single", tmp_path / "pair"
    port = free_port()
    runs = [CONTEXT.Process(target=train, args=(str(single), 0, 1, port, 32, 1))]
    runs += [
        CONTEXT.Process(target=train, args=(str(pair), rank, 2, port, 16 // accumulate, accumulate)) for rank in (0, 1)
    ]
    for process in runs:
        process.start()
    for process in runs:
        process.join(600)
        assert process.exitcode == 0
    assert len(losses(single)) == 12
    assert losses(pair) == pytest.approx(losses(single), abs=1e-5)
    one, two = read_summed(single / "stages", "student"), read_summed(pair / "stages", "student")
    assert one is not None
    assert two is not None
    for name, value in one["network"].items():
        torch.testing.assert_close(two["network"][name], value, atol=1e-5, rtol=1e-5)
