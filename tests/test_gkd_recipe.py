"""Recipes of on-policy distillation, run from end to end."""

import json
import random

import pytest
import torch

from stillhouse.engine.checkpoint import read_summed
from stillhouse.engine.events import Event, Listener, Logged
from stillhouse.recipe.execute import distill, resume
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.text import load

WORDS = ["still", "copper", "kettle", "barley", "water", "smoke", "cask", "oak", "peat", "spirit", "heads", "tails"]


class Killed(Exception):
    """Stands for a process that ends in the middle of a stage."""


class Cut(Listener):
    """A listener that ends the run at step 5 of the student's stage."""

    def heard(self, event: Event) -> None:
        if isinstance(event, Logged) and event.stage == "student" and event.step == 5:
            raise Killed


@pytest.fixture
def recipe(tmp_path):
    draw = random.Random(0)
    path = tmp_path / "notes.txt"
    path.write_text("\n\n".join(" ".join(draw.choices(WORDS, k=30)) for _ in range(200)))
    train = {"steps": 4, "batch_size": 4, "log_every": 1, "checkpoint_steps": 1}
    return Recipe.model_validate(
        {
            "name": "small",
            "data": {"kind": "text", "path": str(path), "block": 16, "vocabulary": 280},
            "teacher": {
                "network": {"kind": "llama", "width": 16, "layers": 2, "heads": 2},
                "weights": {"kind": "trained", **train},
            },
            "student": {
                "network": {"kind": "llama", "width": 8, "layers": 1, "heads": 2},
                "weights": {"kind": "trained", **train},
            },
            "method": {"kind": "gkd", "student_data_fraction": 0.6, "prompt": 4, "rollout": 6},
            "train": train | {"steps": 8},
            "evaluate": ["perplexity", {"kind": "teacher-judged", "prompt": 4, "rollout": 6}],
            "arms": {"off_policy": {"method": {"kind": "gkd", "student_data_fraction": 0, "divergence": "kl"}}},
        }
    )


def weights(folder) -> dict[str, torch.Tensor]:
    kept = read_summed(folder / "stages", "student")
    assert kept is not None
    return kept["network"]


def test_arms_share_their_start_and_their_number_of_steps(recipe, tmp_path):
    run = distill(recipe, out=tmp_path / "run", progress=False)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["arms"]) == {"teacher", "student", "control", "off_policy"}
    for metrics in summary["arms"].values():
        assert {"perplexity", "teacher_log_likelihood", "own_log_likelihood", "gap"} <= set(metrics)
    assert summary["arms"]["teacher"]["gap"] == 0
    assert len({metrics["perplexity"] for metrics in summary["arms"].values()}) == 4
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for arm in ("student", "control", "off_policy"):
        assert [line["step"] for line in lines if line["stage"] == arm] == list(range(1, 9))
    assert "teacher" not in ledger["control"]
    assert ledger["student"]["student"]["tokens"] != ledger["control"]["student"]["tokens"] == 8 * 4 * 16
    assert run is not None


def test_the_student_is_left_as_transformers_reads_it(recipe, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    distill(recipe, out=tmp_path / "run", progress=False)
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "student")
    assert tokenizer.decode(tokenizer("peat smoke")["input_ids"]) == "peat smoke"
    kept = weights(tmp_path / "run")
    for name, value in network.state_dict().items():
        assert torch.equal(value, kept[name])


def test_a_run_cut_off_among_rollouts_goes_on_bit_for_bit(recipe, tmp_path):
    with pytest.raises(Killed):
        distill(recipe, out=tmp_path / "cut", progress=False, listeners=[Cut()])
    assert read_summed(tmp_path / "cut" / "stages", "student") is None
    resume(tmp_path / "cut", progress=False)
    distill(recipe, out=tmp_path / "whole", progress=False)
    ours, theirs = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    read = [json.loads((tmp_path / name / "summary.json").read_text())["arms"] for name in ("cut", "whole")]
    assert read[0] == read[1]


def test_the_shipped_recipe_compares_equals():
    recipe = load("gkd-text")
    assert recipe.student.weights.word == "trained"
    assert all(arm.train is None and arm.student is None for arm in recipe.arms.values())
    assert recipe.control is True
    assert recipe.evaluate_on == "test"
