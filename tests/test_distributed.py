"""Two processes give the losses of one with the doubled batch, whether players are whole or sharded (FSDP)."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from stillhouse.engine.checkpoint import read_summed
from stillhouse.engine.events import Event, Listener, Logged

CONTEXT = multiprocessing.get_context("spawn")

PAIR: dict[str, Any] = {  # no dropout, no batch norm, no augmentation: those differ by process
    "name": "pair",
    "data": {"kind": "digits", "shift": 0},
    "teacher": {"network": {"kind": "mlp", "hidden": [32]}, "weights": {"kind": "random"}},
    "student": {"network": {"kind": "mlp", "hidden": [16]}},
    "method": {
        "kind": "match",
        "terms": [
            {"signal": "logits", "by": "kl"},
            {"signal": "labels", "by": "cross_entropy"},
            {"signal": "features.layers.0", "by": "mse", "project": "linear"},
        ],
    },
    "train": {"steps": 12, "optimizer": {"kind": "adamw", "lr": 0.01}, "ema": 0.9, "clip": 0.5, "log_every": 1},
    "evaluate": ["accuracy"],
    "control": False,
}
SHORT = {"steps": 3, "batch_size": 4, "log_every": 1, "optimizer": {"kind": "adam", "lr": 0.001}}
ON_POLICY = {
    "name": "on-policy",
    "data": {"kind": "python-topics", "block": 16, "vocabulary": 280},
    "teacher": {"network": {"kind": "llama", "width": 16, "layers": 2, "heads": 2}, "weights": {"kind": "random"}},
    "student": {"network": {"kind": "llama", "width": 8, "layers": 2, "heads": 2}},
    "method": {"kind": "gkd", "student_data_fraction": 0.5, "prompt": 4, "rollout": 6},
    "train": SHORT | {"steps": 8, "accumulate": 2},
    "evaluate": ["perplexity"],
    "control": False,
}
DENOISER = {"kind": "denoiser", "width": 16, "blocks": 1, "sigma_data": 0.75}
VIEW = {"kind": "image", "mean": [0.5], "std": [0.5]}
TWO_PLAYERS = {
    "name": "two-players",
    "data": {"kind": "digits", "shift": 0},
    "teacher": {
        "network": DENOISER,
        "view": VIEW,
        "weights": {"kind": "trained", **SHORT},
        "sampler": {"kind": "heun", "steps": 2},
    },
    "student": {"weights": {"kind": "teacher"}, "view": VIEW, "sampler": {"kind": "one-step", "sigma": 2.5}},
    "method": {"kind": "dmd", "critic_updates": 2},
    "train": SHORT | {"players": {"student": {"ema": 0.9}}},
    "evaluate": ["sampling-cost"],
    "control": False,
}


class Cut(Listener):
    """Ends the process at step 5, as a crash would."""

    def heard(self, event: Event) -> None:
        if isinstance(event, Logged) and event.step == 5:
            os._exit(7)


def work(folder: str, words: dict[str, Any], rank: int, world: int, port: int, sharded: bool, cut: bool) -> None:
    """One process of a run, or of its going on."""
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_FSDP": str(sharded).lower(),
        }
    from stillhouse.recipe.execute import distill, resume
    from stillhouse.recipe.schema import Recipe

    if (Path(folder) / "recipe.yaml").exists():
        resume(folder, progress=False)
    else:
        recipe = Recipe.model_validate(words)
        distill(recipe, out=folder, device="cpu", progress=False, listeners=[Cut()] if cut else [])


def run(folder: Path, words: dict[str, Any], world: int = 1, sharded: bool = False, cut: bool = False) -> Path:
    """The run in `world` processes, each with its share of the batch."""
    port = free_port()
    arguments = [(str(folder), words, rank, world, port, sharded, cut) for rank in range(world)]
    processes = [CONTEXT.Process(target=work, args=own) for own in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        assert process.exitcode == (7 if cut else 0)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train(words: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return words | {"train": words["train"] | settings}


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    kept = read_summed(folder / "stages", "student")
    assert kept is not None
    return kept["network"]


def assert_same_run(run: Path, other: Path, tolerance: float = 1e-5) -> None:
    assert len(losses(run)) == len(losses(other)) > 0
    for own, others in zip(losses(run), losses(other), strict=True):
        assert own == pytest.approx(others, abs=tolerance, rel=tolerance)
    torch.testing.assert_close(weights(run), weights(other), atol=tolerance, rtol=tolerance)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("single") / "run", train(PAIR, batch_size=32))


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_are_one_with_the_doubled_batch(single: Path, tmp_path: Path, accumulate: int, sharded: bool):
    words = train(PAIR, batch_size=16 // accumulate, accumulate=accumulate)
    assert_same_run(run(tmp_path / "pair", words, world=2, sharded=sharded), single)


@pytest.mark.parametrize("words", [ON_POLICY, TWO_PLAYERS], ids=["on-policy", "two-players"])
def test_sharded_players_train_as_whole_ones(tmp_path: Path, words: dict[str, Any]):
    """Also where how often a player is called is drawn at random, and where players take turns."""
    whole = run(tmp_path / "whole", words, world=2)
    assert_same_run(run(tmp_path / "sharded", words, world=2, sharded=True), whole)


def test_a_sharded_run_that_was_cut_goes_on_as_if_it_had_not(tmp_path: Path):
    words = train(PAIR, batch_size=16, checkpoint_steps=4)
    straight = run(tmp_path / "straight", words, world=2, sharded=True)
    cut = run(tmp_path / "cut", words, world=2, sharded=True, cut=True)
    assert not (cut / "stages").exists() or not list((cut / "stages").iterdir())
    run(cut, words, world=2, sharded=True)
    assert losses(cut) == losses(straight)
    torch.testing.assert_close(weights(cut), weights(straight), atol=0, rtol=0)
