"""The preflight tells what would ruin a run, and passes what would not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stillhouse.engine.checkpoint import read_summed
from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.networks.kinds import MLP
from stillhouse.recipe import check as preflight
from stillhouse.recipe.check import Report, check
from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe

FACTS = Facts("classification", (1, 8, 8), 10)
LABELS = {"signal": "labels", "by": "cross_entropy"}


def recipe(**changes: Any) -> Recipe:
    words = {
        "name": "small",
        "data": {"kind": "digits", "shift": 0},
        "teacher": {"network": {"kind": "mlp", "hidden": [16]}},
        "student": {"network": {"kind": "mlp", "hidden": [8]}},
        "method": {"kind": "match", "terms": [{"signal": "logits", "by": "kl"}, LABELS]},
        "train": {"steps": 3, "batch_size": 8},
        "evaluate": ["accuracy"],
    }
    return Recipe.model_validate(words | changes)


def errors(report: Report) -> str:
    assert not report.passed
    return "\n".join(f"{f.what}: {f.told}" for f in report.findings if f.level == "error")


def saved_teacher(folder: Path, trained: bool) -> dict[str, Any]:
    """A teacher from a file: one that learned the digits, or one that knows nothing."""
    torch.manual_seed(0)
    network = MLP(hidden=[16]).build(FACTS)
    if trained:
        train = recipe().data.build().train
        batch = train.fetch(torch.arange(len(train)), None)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(batch["image"]), batch["labels"]).backward()
            optimizer.step()
    save_file(network.state_dict(), folder / "teacher.safetensors")
    weights = {"kind": "file", "path": str(folder / "teacher.safetensors")}
    return {"network": {"kind": "mlp", "hidden": [16]}, "weights": weights}


def test_a_sound_recipe_passes(tmp_path: Path):
    report = check(recipe(teacher=saved_teacher(tmp_path, trained=True)))
    assert report.clean, report.table()
    assert {f.what for f in report.findings} >= {"data", "student: size", "student: rehearsed", "teacher"}


def test_a_teacher_at_chance_is_told(tmp_path: Path):
    told = errors(check(recipe(teacher=saved_teacher(tmp_path, trained=False))))
    assert "knows nothing of this data" in told


def test_a_tap_that_matches_nothing_offers_the_nearest():
    terms = [{"signal": "features.layers.9", "by": "mse"}]
    told = errors(check(recipe(method={"kind": "match", "terms": terms})))
    assert "layers.9" in told
    assert "did you mean 'layers." in told


def test_features_of_different_width_name_both():
    terms = [{"signal": "features.layers.0", "by": "mse"}]
    told = errors(check(recipe(method={"kind": "match", "terms": terms})))
    assert "8)" in told
    assert "16)" in told
    assert "project: linear" in told


def test_a_list_of_signals_for_a_loss_of_one_is_told():
    layers = ["features.layers.0", "features.layers.2"]
    term = {"signal": layers, "teacher_signal": layers, "by": "mse"}
    same = {"network": {"kind": "mlp", "hidden": [8]}}
    report = check(recipe(teacher=same, method={"kind": "match", "terms": [term, LABELS]}, control=False))
    assert "write a term for each of the signals listed" in errors(report)


@pytest.mark.parametrize(
    ("metric", "said"),
    [("frechet", "it measures generation"), ("perplexity", "it measures language"), ("accuracy", "")],
)
def test_what_cannot_be_measured_is_told_before_training(metric: str, said: str):
    report = check(recipe(evaluate=[metric]))
    assert (f"evaluate: {metric}: {said}" in errors(report)) if said else report.passed


def test_a_metric_that_does_not_fit_the_images_is_told_before_training():
    report = check(recipe(evaluate=["accuracy", {"kind": "patch-shuffle", "patch": 3}]))
    assert "evaluate: patch-shuffle: patch-shuffle: inputs [1, 8, 8] do not split" in errors(report)
    assert ("ok", "measured on 32", "accuracy") in [(f.level, f.what, f.told) for f in report.findings]


def test_a_teacher_that_answers_something_else_is_told_before_training():
    """Features alone are taught, so every step of training works, and measuring the teacher's tags would not."""
    words = {"kind": "bert", "width": 8, "layers": 1, "heads": 2}
    hidden = {"signal": "features.bert.encoder.layer.0.output", "by": "mse"}
    report = check(
        recipe(
            data={"kind": "python-names", "vocabulary": 300, "block": 16},
            teacher={"network": words | {"head": "masked-lm"}},
            student={"network": words | {"head": "tokens"}},
            method={"kind": "match", "terms": [hidden, LABELS]},
            evaluate=["tags"],
        )
    )
    assert all(not f.what.startswith(("student", "control")) for f in report.findings if f.level == "error")
    assert "evaluate: tags: measuring teacher failed with " in errors(report)


def test_too_few_examples_for_a_metric_are_no_error_where_the_split_has_more(monkeypatch: pytest.MonkeyPatch):
    few = {"kind": "group-accuracy", "head": [0, 1, 2], "tail": [9]}
    source = recipe().data.build().test
    labels = source.fetch(torch.arange(len(source)), None)["labels"]
    monkeypatch.setattr(preflight, "MEASURED", int((labels == 9).nonzero()[0]))
    report = check(recipe(evaluate=[few]))
    assert report.passed, report.table()
    assert not any("group-accuracy" in f.told for f in report.findings)


def test_a_failure_of_the_first_step_is_told_with_what_failed():
    report = check(recipe(method={"kind": "gkd"}))
    assert "student: the first step failed with KeyError: 'input_ids'" in errors(report)
    assert "the data (digits) and the method (gkd)" in errors(report)


def test_a_control_that_trains_longer_is_told():
    longer = {"train": {"steps": 30, "batch_size": 8}}
    report = check(recipe(control=longer))
    assert report.passed
    assert not report.clean
    assert "the student is trained for 3 steps, the control for 30 steps" in report.table()


def test_a_run_that_cannot_work_writes_nothing(tmp_path: Path):
    wrong = recipe(method={"kind": "match", "terms": [{"signal": "logit", "by": "kl"}]}, control=False)
    with pytest.raises(StillhouseError, match="nothing was written"):
        distill(wrong, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(StillhouseError, match="holds files that are no run's"):
        distill(recipe(), out=tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_projector_mends_that():
    terms = [{"signal": "features.layers.0", "by": "mse", "project": "linear"}, LABELS]
    assert check(recipe(method={"kind": "match", "terms": terms})).passed


def test_a_batch_that_cannot_fit_is_told_with_one_that_can(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight, "free_memory", lambda device: 120_000)
    told = errors(check(recipe(train={"steps": 3, "batch_size": 1000})))
    assert "lower train.batch_size to" in told


def test_a_network_that_cannot_fit_is_told_before_it_is_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight, "free_memory", lambda device: 1000)
    assert "student: size" in errors(check(recipe()))


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path):
    teacher = {"network": {"kind": "mlp"}, "weights": {"kind": "file", "path": "no/such.safetensors"}}
    told = errors(check(recipe(teacher=teacher)))
    assert "no/such.safetensors" in told
    assert "--root" in told


def test_checking_trains_nothing_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    check(recipe())
    assert not list(tmp_path.iterdir())


def test_saved_bytes_are_what_autograd_keeps():
    x = torch.ones(1000, requires_grad=True)
    with preflight.saved_bytes() as kept:
        y = x.exp()  # keeps its result: 4,000 bytes
        y.sum().backward()
    assert max(kept) == 4000


def test_a_student_becomes_the_next_teacher(tmp_path: Path):
    """Born-again generations: stages hand their weights over."""
    network = {"kind": "mlp", "hidden": [8]}
    generation = {"name": "generation-1", "train": {"steps": 5, "batch_size": 16}}
    born = {"network": network, "weights": {"kind": "stage", "stage": "generation-1"}}
    words = recipe(student={"network": network}, stages=[generation], control=False).model_dump(mode="json")
    words["stages"].append({"name": "generation-2", "teacher": born, "train": {"steps": 4, "batch_size": 16}})
    words["stages"][1] = {k: v for k, v in words["stages"][1].items() if v is not None}
    run = distill(Recipe.model_validate(words), out=tmp_path / "run", device="cpu", progress=False)
    first, second = (read_summed(run.folder / "stages", f"generation-{n}") for n in (1, 2))
    assert first is not None
    assert second is not None
    assert first["ledger"]["roles"]["teacher"]["examples"] > 0
    assert any(not torch.equal(first["network"][n], second["network"][n]) for n in first["network"])


def test_a_stage_that_comes_later_hands_nothing_over(tmp_path: Path):
    late = {"network": {"kind": "mlp", "hidden": [8]}, "weights": {"kind": "stage", "stage": "control"}}
    with pytest.raises(StillhouseError, match="no such stage comes before"):
        distill(recipe(teacher=late), out=tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run").exists()


def test_data_split_otherwise_is_no_teachers_school(tmp_path: Path):
    """A teacher trained on other splits of the same set may have seen the test images."""
    weights = {"kind": "trained", "steps": 2, "data": {"kind": "digits", "test": 0.1}}
    teacher = {"network": {"kind": "mlp"}, "weights": weights}
    with pytest.raises(StillhouseError, match="may hold what the report tests on"):
        distill(recipe(teacher=teacher), out=tmp_path / "run", device="cpu", progress=False)


def test_a_teacher_of_other_classes_is_told_before_it_is_trained():
    other = {"kind": "glyphs", "characters": "ABC", "size": 8, "train": 30, "validation": 10, "test": 10}
    weights = {"kind": "trained", "steps": 2, "data": other}
    told = errors(check(recipe(teacher={"network": {"kind": "mlp", "hidden": [16]}, "weights": weights})))
    assert "the weights for 'teacher' do not fit its MLP" in told
    assert "(3,) in the weights and (10,) in the network" in told


def test_a_stage_that_hands_over_another_network_is_told_before_it_is_trained():
    first = {"name": "wide", "student": {"network": {"kind": "mlp", "hidden": [32]}}}
    student = {"network": {"kind": "mlp", "hidden": [8]}, "weights": {"kind": "stage", "stage": "wide"}}
    assert "the weights for 'student' do not fit" in errors(check(recipe(stages=[first], student=student)))
