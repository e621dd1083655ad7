"""Several teachers as one, and arms with a teacher, data or members of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from stillhouse.engine.contracts import Batch
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.cost import count_flops
from stillhouse.recipe.check import check
from stillhouse.recipe.execute import distill
from stillhouse.recipe.plan import planned
from stillhouse.recipe.text import load
from stillhouse.store.identity import identity_of
from stillhouse.teachers.ensemble import Ensemble
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model


def member(seed: int) -> Model:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    return Model(network, ImageView(Image(mean=(0.1 * seed,))))


def batch(count: int = 6) -> Batch:
    return {"image": torch.rand(count, 1, 8, 8), "labels": torch.zeros(count, dtype=torch.long)}


def test_logits_are_the_log_of_the_weighted_mean_of_probabilities() -> None:
    members = {"a": member(0), "b": member(1)}
    inputs = batch()
    found = Ensemble(members, [1.0, 3.0]).signals(inputs)["logits"]
    a, b = (members[name].signals(inputs)["logits"].double().softmax(-1) for name in "ab")
    torch.testing.assert_close(found.double().softmax(-1), 0.25 * a + 0.75 * b, atol=1e-6, rtol=0)


def test_a_members_signals_go_by_its_name() -> None:
    members = {"a": member(0), "b": member(1)}
    inputs = batch()
    found = Ensemble(members).signals(inputs, ["b.logits", "a.features.1", "logits"])
    assert torch.equal(found["b.logits"], members["b"].signals(inputs)["logits"])
    assert torch.equal(found["a.features.1"], members["a"].signals(inputs)["logits"])
    with pytest.raises(StillhouseError, match=r"no 'c\.logits'"):
        Ensemble(members).signals(inputs, ["c.logits"])


def test_what_an_ensemble_costs_is_what_its_members_cost() -> None:
    inputs, one = batch(), member(0)
    found = [count_flops(lambda m=m: m.signals(inputs, ())) for m in (one, Ensemble({"a": one, "b": member(1)}))]
    assert found[1] == 2 * found[0] > 0


def test_its_identity_tells_shares_and_views_apart() -> None:
    members = {"a": member(0), "b": member(1)}
    first = identity_of(Ensemble(members))
    assert first == identity_of(Ensemble(members))
    assert first.differences(identity_of(Ensemble(members, [1.0, 2.0])))


RECIPE = """
name: several
data: digits
teacher:
  members:
    a: {network: {kind: mlp, hidden: [16]}, weights: {kind: trained, steps: 4}}
    b: {network: {kind: mlp, hidden: [16]}, weights: {kind: trained, steps: 4, data: {kind: only-classes, of: digits,
        classes: [0, 1]}}}
student: {network: {kind: mlp, hidden: [4]}}
stages:
  - {name: first, train: {steps: 2}, data: {kind: fewer, of: digits, limit: 40}}
method: {kind: match, terms: [{by: kl}, {by: kl, teacher_signal: b.logits}]}
train: {steps: 3}
evaluate: [accuracy, agreement, cost]
arms:
  alone: {teacher: {network: {kind: mlp}, weights: {kind: trained, steps: 2}}, method: {kind: match, terms: [{by: kl}]}}
  mixed: {data: {kind: mixup, of: digits}}
  together: {of: [student, first, teacher-a]}
"""


def test_a_run_with_several_teachers_and_arms_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "several.yaml"
    file.write_text(RECIPE)
    recipe = load(file)
    names = [stage.name for stage in planned(recipe)]
    assert names == ["teacher-a", "teacher-b", "first", "student", "control", "alone-teacher", "alone", "mixed"]
    run = distill(recipe, out=tmp_path / "run", progress=False)
    arms = run.summary["arms"]
    assert set(arms) == {"teacher", "student", "control", "alone", "mixed", "together"}
    assert arms["teacher"]["parameters"] == 2 * (64 * 16 + 16 + 16 * 10 + 10)
    assert arms["together"]["parameters"] == 2 * (64 * 4 + 4 + 4 * 10 + 10) + 64 * 16 + 16 + 16 * 10 + 10
    ledger = json.loads((run.folder / "ledger.json").read_text())
    assert ledger["student"]["teacher.a"]["examples"] == ledger["student"]["teacher.b"]["examples"] > 0


def test_an_arm_of_a_model_there_is_not_is_told_before_the_run(tmp_path: Path) -> None:
    file = tmp_path / "several.yaml"
    file.write_text(RECIPE.replace("teacher-a]", "teacher-c]"))
    with pytest.raises(StillhouseError, match=r"arm 'together' is of 'teacher-c'.*teacher-"):
        planned(load(file))


def test_members_and_a_network_at_once_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "several.yaml"
    file.write_text(RECIPE.replace("teacher:\n", "teacher:\n  network: {kind: mlp}\n"))
    with pytest.raises(StillhouseError, match="no 'network' or 'store' of its own"):
        load(file)


@pytest.mark.parametrize("stage", ["student", "frist"])
def test_weights_of_a_stage_that_does_not_come_before_are_told_by_the_check(stage: str, tmp_path: Path) -> None:
    file = tmp_path / "several.yaml"
    member = "a: {network: {kind: mlp, hidden: [16]}, weights: {kind: trained, steps: 4}}"
    assert member in RECIPE
    later = f"a: {{network: {{kind: mlp}}, weights: {{kind: stage, stage: {stage}}}}}"
    file.write_text(RECIPE.replace(member, later).replace("teacher-a]", "first]"))
    told = [finding.told for finding in check(load(file)).findings if finding.level == "error"]
    assert any(f"weights of stage '{stage}': no such stage comes before" in one for one in told)
