"""stillhouse search: trials on the validation split, resumed after a kill, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stillhouse.cli.main import main
from stillhouse.errors import RunFailed, StillhouseError
from stillhouse.recipe import search as module
from stillhouse.recipe.execute import measured_on
from stillhouse.recipe.problems import RecipeError
from stillhouse.recipe.search import Searched, search, trial_recipe
from stillhouse.recipe.search_proof import judged
from stillhouse.recipe.text import load

TINY = """\
name: tiny
data: {kind: digits, limit: 60}
teacher: {network: {kind: convnet, width: 4}, weights: {kind: trained, steps: 3, batch_size: 8}}
student: {network: {kind: convnet, width: 2}}
method:
  kind: match
  terms:
    - {signal: logits, by: kl, temperature: 4.0}
    - {signal: labels, by: cross_entropy}
train: {steps: 40, batch_size: 8}
evaluate: [accuracy, calibration]
search:
  metric: nll
  trials: 4
  startup: 2
  overrides: {train.steps: 10}
  choices:
    train.optimizer.lr: {low: 1.0e-4, high: 0.1, log: true}
    method.terms.0: [{by: kl, temperature: 4.0}, {by: mse}]
"""


def outcome(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "search.json").read_text())


def told(folder: Path) -> list[tuple[Any, ...]]:
    """What two searches must have in common to be the same."""
    return [(t["number"], t["choices"], t["state"], t["value"], t["metrics"]) for t in outcome(folder)["trials"]]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """An uninterrupted search."""
    return search(load(TINY), out=tmp_path_factory.mktemp("search") / "whole", progress=False, device="cpu")


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("train.optimizer.lr:", "train.optimiser.lr:", 18, "did you mean 'train.optimizer'"),
        ("{by: mse}", "{by: msee}", 19, "did you mean 'mse'"),
        ("low: 1.0e-4", "low: -1", 18, "starts above zero"),
        ("low: 1.0e-4", "low: 1", 18, "must lie below"),
        ("low: 1.0e-4, high: 0.1, log: true", "low: -1.0, high: 0.1", 18, "greater than 0"),
        ("{by: mse}", "{by: kl, temperature: 4.0}", 17, "lists a choice twice"),
        ("metric: nll", "metric: acuracy", None, "did you mean 'accuracy'"),
        ("train.steps: 10", "train.stps: 10", 16, "did you mean 'train.steps'"),
        ("trials: 4", "trials: 0", 14, "greater than 0"),
        ("startup: 2", "arms: {best: {search.sampler: grid}}", 15, "'grid' is not a valid word"),
        ("startup: 2", "arms: {average: {}}", None, "may not be named average"),
        ("startup: 2", "warm: {after: 1, pool: 2}", 15, "greater than or equal to 2"),
    ],
)
def test_a_wrong_search_is_refused_before_anything_runs(old: str, new: str, line: int | None, said: str):
    assert TINY.count(old) == 1
    with pytest.raises(RecipeError, match=said.replace("[", r"\[")) as refused:
        load(TINY.replace(old, new))
    if line is not None:
        assert refused.value.problems[0].line == line


def test_every_choice_is_held_against_the_schema():
    """Not the first one alone, and not only what stands in the recipe."""
    with pytest.raises(RecipeError) as refused:
        load(TINY.replace("[{by: kl, temperature: 4.0}, {by: mse}]", "[{by: mse}, {by: kl, temperature: 0}, {by: x}]"))
    assert len(refused.value.problems) == 2
    assert all("search.choices.method.terms.0" in str(problem) for problem in refused.value.problems)


def test_trials_see_the_validation_split_alone(done: Searched):
    for trial in done.outcome["trials"]:
        folder = done.trial_folder(trial["number"])
        recipe = load(folder / "recipe.yaml")
        assert (recipe.evaluate_on, recipe.control, recipe.arms, recipe.search) == ("validation", False, {}, None)
        assert recipe.train.steps == 10
        assert recipe.train.optimizer.lr == trial["choices"]["train.optimizer.lr"]
        assert trial["metrics"] == pytest.approx(measured_on(folder, "validation")["student"])
        assert trial["metrics"]["nll"] != pytest.approx(measured_on(folder, "test")["student"]["nll"], rel=1e-6)


def test_the_best_is_the_lowest_and_its_recipe_runs_at_its_own_budget(done: Searched):
    trials = done.outcome["trials"]
    assert [trial["state"] for trial in trials] == ["done"] * 4
    assert done.best["value"] == min(trial["value"] for trial in trials)
    assert len({json.dumps(trial["choices"]) for trial in trials}) == 4
    best = load(done.folder / "best.yaml")
    assert best.train.optimizer.lr == done.best["choices"]["train.optimizer.lr"]
    assert (best.train.steps, best.evaluate_on, best.control, best.search) == (40, "test", True, None)
    page = (done.folder / "report.html").read_text()
    assert "What mattered" in page
    assert "stillhouse run best.yaml" in page
    assert "<script" not in page


def test_one_teacher_is_trained_for_all(done: Searched):
    files = [next((done.trial_folder(n) / "stages").glob("teacher-*")) for n in (1, 2, 3, 4)]
    assert len({file.stat().st_ino for file in files}) == 1
    students = [next((done.trial_folder(n) / "stages").glob("student-*")) for n in (1, 2, 3, 4)]
    assert len({file.stat().st_ino for file in students}) == 4


def test_another_teacher_is_not_taken_over(tmp_path: Path):
    recipe = load(TINY, ["search.trials=2", 'search.choices={"teacher.weights.steps": [1, 2]}'])
    found = search(recipe, out=tmp_path / "s", progress=False, device="cpu")
    one, two = (next((found.trial_folder(n) / "stages").glob("teacher-*")).name for n in (1, 2))
    assert one != two


def test_killed_in_a_trial_it_ends_where_the_uninterrupted_search_ends(done: Searched, tmp_path: Path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    words = ["search", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "killed"), "--quiet", "--device", "cpu"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums of other threads differ in their last digits
    child = subprocess.Popen(
        [sys.executable, "-m", "stillhouse", *words], stdout=subprocess.DEVNULL, env=os.environ | threads
    )
    second = tmp_path / "killed" / "trials" / "002"
    while not (second / "metrics.jsonl").exists() and child.poll() is None:
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    states = [trial["state"] for trial in outcome(tmp_path / "killed")["trials"]]
    assert states in (["done", "running"], ["done", "done"], ["done", "done", "running"])
    first = (tmp_path / "killed" / "trials" / "001" / "summary.json").stat().st_mtime_ns
    search(load(tmp_path / "tiny.yaml"), out=tmp_path / "killed", progress=False, device="cpu")
    assert told(tmp_path / "killed") == told(done.folder)
    assert outcome(tmp_path / "killed")["importance"] == done.outcome["importance"]
    assert (tmp_path / "killed" / "trials" / "001" / "summary.json").stat().st_mtime_ns == first


def test_a_failed_trial_is_recorded_and_the_rest_goes_on(tmp_path: Path):
    choices = '{"method.terms.0.signal": ["logits", "features.nowhere"]}'
    recipe = load(TINY, [f"search.choices={choices}", "search.trials=5"])
    found = search(recipe, out=tmp_path / "s", progress=False, device="cpu")
    states = {json.dumps(t["choices"]["method.terms.0.signal"]): t["state"] for t in found.outcome["trials"]}
    assert states == {'"logits"': "done", '"features.nowhere"': "failed"}, "two combinations: no trial comes twice"
    failed = next(trial for trial in found.outcome["trials"] if trial["state"] == "failed")
    assert "nowhere" in failed["error"]
    assert failed["value"] is None
    assert "nowhere" in (found.folder / "report.html").read_text()


def test_where_all_fail_the_run_failed(tmp_path: Path):
    recipe = load(TINY, ['search.choices={"method.terms.0.signal": ["features.nowhere"]}'])
    with pytest.raises(RunFailed, match="no trial of"):
        search(recipe, out=tmp_path / "s", progress=False, device="cpu")


def test_more_trials_keep_those_that_were_done(done: Searched, tmp_path: Path):
    recipe = load(TINY)
    search(recipe, out=tmp_path / "s", trials=2, progress=False, device="cpu")
    assert len(told(tmp_path / "s")) == 2
    search(recipe, out=tmp_path / "s", progress=False, device="cpu")
    assert told(tmp_path / "s") == told(done.folder)
    with pytest.raises(StillhouseError, match="another recipe"):
        search(load(TINY, ["train.batch_size=16"]), out=tmp_path / "s", progress=False, device="cpu")


def test_importance_finds_the_choice_that_decides(tmp_path: Path):
    recipe = load(TINY)
    trials = []
    for number in range(1, 25):
        lr, term = 10 ** (-4 + (number * 7 % 24) / 8), recipe.search.choices["method.terms.0"][number % 2]  # type: ignore[union-attr,index]
        choices = {"train.optimizer.lr": lr, "method.terms.0": term}
        trials.append({"number": number, "choices": choices, "state": "failed", "value": 3.0 if number % 2 else 1.0})
    (tmp_path / "search.json").write_text(json.dumps({"trials": trials}))
    at_work = module._Search(recipe, recipe.search, tmp_path, "cpu", ())  # type: ignore[arg-type]
    assert at_work.importance() == {}, "failed trials tell nothing"
    for trial in at_work.trials:
        trial.state = "done"
    shares = at_work.importance()
    assert shares["method.terms.0"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)


WARM = ["search.trials=6", "search.warm={after: 3, pool: 2}", "search.overrides={train.steps: 30}", "data.shift=0"]
"""Long enough for a teacher above chance, which the preflight asks for."""


def test_warm_trials_start_from_and_learn_from_the_best_so_far(tmp_path: Path):
    recipe = load(TINY.replace("low: 1.0e-4", "low: 0.01"), WARM)
    found = search(recipe, out=tmp_path / "s", progress=False, device="cpu")
    trials = found.outcome["trials"]
    for trial in trials:
        own = load(found.trial_folder(trial["number"]) / "recipe.yaml")
        if trial["number"] <= 3:
            assert own.teacher is None
            assert [term.signal for term in own.method.terms] == ["labels"]  # type: ignore[attr-defined]
            assert trial["taught_by"] is trial["starts_from"] is None
            continue
        before = sorted(trials[: trial["number"] - 1], key=lambda t: t["value"])[:2]
        pair = [trial["starts_from"], trial["taught_by"]]
        assert sorted(pair) == sorted(t["number"] for t in before)
        paths = [own.student.weights.path, own.teacher.weights.path]  # type: ignore[union-attr]
        assert [Path(path).parts[-3] for path in paths] == [f"{number:03d}" for number in pair]
    at_work = module._Search(recipe, recipe.search, found.folder, "cpu", ())  # type: ignore[arg-type]
    assert [len(at_work._study(number).trials) for number in (3, 7)] == [3, 3]


def test_a_proof_measures_the_chosen_student_on_the_test_split(tmp_path: Path):
    recipe = load(TINY, ["search.trials=3", "search.arms={chance: {search.sampler: random}, one: {search.trials: 1}}"])
    summary = judged(recipe, tmp_path, device="cpu", progress=False)
    assert summary["arms"].keys() == {"search", "chance", "one", "average", "importance"}
    best = outcome(tmp_path / "search")["best"]
    tested = [measured_on(tmp_path / "search" / "trials" / f"{n:03d}", "test")["student"]["nll"] for n in (1, 2, 3)]
    assert summary["arms"]["search"]["nll"] == tested[best - 1]
    assert summary["arms"]["average"]["nll"] == pytest.approx(sum(tested) / 3)
    assert len(outcome(tmp_path / "one")["trials"]) == 1
    assert summary["cost"]["seconds"] > 0


def test_the_recipe_of_a_trial_leaves_the_rest_alone():
    recipe = load(TINY)
    changed = trial_recipe(recipe, {"train.optimizer.lr": 0.5}, whole=True)
    assert changed.train.optimizer.lr == 0.5
    assert changed.method == recipe.method
    assert changed.train.steps == recipe.train.steps


class TestTheCommand:
    def call(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as left:
            main(list(words))
        return (left.value.code, *capsys.readouterr())

    def test_it_answers_with_one_object(self, capsys: pytest.CaptureFixture[str], done: Searched):
        recipe = str(done.folder / "recipe.yaml")
        code, out, _ = self.call(capsys, "search", recipe, "--out", str(done.folder), "--json")
        assert code in (0, None)
        assert json.loads(out)["best"] == done.best["number"]
        code, out, err = self.call(capsys, "search", recipe, "--out", str(done.folder))
        assert "What mattered" in out
        assert f"stillhouse run {done.folder}/best.yaml" in out
        assert not err, "what is done is not done again"

    def test_it_says_what_is_missing(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        assert self.call(capsys, "search", "kd-digits")[0] == 2
        assert "no 'search' section" in self.call(capsys, "search", "kd-digits")[2]
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(StillhouseError, match=r"pip install 'stillhouse\[search\]'"):
            search(load(TINY))

    def test_optuna_is_imported_by_a_search_alone(self):
        code = "import sys, stillhouse.recipe.search, stillhouse.recipe.prove; sys.exit('optuna' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
