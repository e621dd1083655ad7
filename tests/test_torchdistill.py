"""The recipe of torchdistill's row: terms are swapped without code, and a stored teacher gives a live one's losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.targets import build_for
from stillhouse.recipe.text import load

SMALL = ["data.of.of.shift=0", "data.of.limit=52", "data.labels=26"]
SMALL += ["train.steps=6", "train.batch_size=20", "train.log_every=1"]
SMALL += ["teacher.network.width=4", "student.network.width=4", "control=false", "arms={}", "proof=null", "evaluate=[]"]
SMALL += ["teacher.weights={kind: trained, steps: 2}"]


def test_the_arms_differ_by_their_terms_alone():
    recipe = load("torchdistill-glyphs")
    for name, arm in recipe.arms.items():
        assert arm.model_fields_set == {"method"}, name
        assert arm.method is not None
        assert arm.method.word == recipe.method.word == "match"
        ours, theirs = (json.loads(m.model_dump_json())["terms"] for m in (arm.method, recipe.method))
        assert ours[0] == theirs[0], "all learn from the labels alike"
        assert ours[1:] != theirs[1:]


def losses(recipe: Recipe, folder: Path) -> list[dict[str, float]]:
    """The losses of each step of a run that asks nothing of its teacher but answers."""
    run = distill(recipe, out=folder, device="cpu", progress=False, check=False)
    return [json.loads(line)["losses"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_stored_teacher_gives_the_losses_of_a_live_one(tmp_path: Path):
    """All terms of all arms at once: logits, and the features at three taps."""
    recipe = load("torchdistill-glyphs")
    methods = [recipe.method, *(arm.method for arm in recipe.arms.values())]
    terms = [term for method in methods if method for term in json.loads(method.model_dump_json())["terms"][1:]]
    every = [*SMALL, f"method.terms={json.dumps(terms)}"]
    build_for(load("torchdistill-glyphs", every), tmp_path / "store", device="cpu", progress=False)
    kept = f"teacher.weights={{kind: file, path: {tmp_path / 'store' / 'teacher' / 'weights.safetensors'}}}"
    live = losses(load("torchdistill-glyphs", [*every, kept]), tmp_path / "live")
    from_store = [*every, kept, f"teacher.store={tmp_path / 'store'}"]
    stored = losses(load("torchdistill-glyphs", from_store), tmp_path / "stored")
    assert json.loads((tmp_path / "stored" / "ledger.json").read_text())["student"]["teacher_from_store"] == 1.0
    assert len(live) == len(stored) == 6
    assert len(live[0]) >= 5, "one loss a term"
    for ours, theirs in zip(live, stored, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5)
    assert live[0] != live[-1], "the student moves, or the comparison says nothing"
