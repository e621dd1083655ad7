"""Proofs: which runs they make, what they leave behind, and how they go on after a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stillhouse.catalog import evidence, shipped, state
from stillhouse.errors import Interrupted, ProofFellShort, StillhouseError
from stillhouse.recipe.expect import parse
from stillhouse.recipe.prove import prove
from stillhouse.recipe.schema import Recipe

TINY = """
name: {name}
paper: {paper}
data: digits
teacher: {{network: {{kind: convnet, width: 8}}, weights: {{kind: trained, epochs: 1}}}}
student: {{network: {{kind: convnet, width: 4}}}}
method:
  kind: match
  terms:
    - {{signal: logits, by: kl, temperature: 4.0, weight: 0.9}}
    - {{signal: labels, by: cross_entropy, weight: 0.1}}
train: {{epochs: 5, batch_size: 128, optimizer: {{kind: adamw, lr: 5.0e-3}}}}
evaluate: [accuracy, agreement]
evaluate_on: validation
proof:
  seeds: [0, 1, 2]
  expect: ["{expect}"]
  overrides: {{train.epochs: 2, train.batch_size: 256}}
"""
HOLDS = "student.accuracy > control.accuracy by 2 se"


class Lab:
    """Runs recipes by a formula, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Recipe, Path]] = []
        self.gain = 0.1
        self.stop_at: int | None = None

    def __call__(self, recipe: Recipe, folder: Path) -> dict[str, Any]:
        if recipe.seed == self.stop_at:
            raise Interrupted("stopped at step 3")
        self.asked.append((recipe, folder))
        control = 0.5 + 0.01 * recipe.seed
        arms = {"student": {"accuracy": control + self.gain, "nll": math.nan}, "control": {"accuracy": control}}
        environment = {"stillhouse": "0.1.0", "python": "3.12", "threads": 1}
        return {"arms": arms, "cost": {"seconds": 2.0}, "environment": environment}

    @property
    def seeds(self) -> list[int]:
        return [recipe.seed for recipe, _ in self.asked]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, with recipes and evidence of its own."""
    (tmp_path / "recipes" / "logit").mkdir(parents=True)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "recipes")
    monkeypatch.setattr(evidence, "home", lambda: tmp_path / "evidence")
    monkeypatch.setattr("stillhouse.recipe.prove.home", lambda: tmp_path / "evidence")
    monkeypatch.chdir(tmp_path)
    shipped._scan.cache_clear()
    yield tmp_path
    shipped._scan.cache_clear()


def put(shelf: Path, name: str = "tiny", expect: str = HOLDS, paper: str = "born-again-networks") -> None:
    path = shelf / "recipes" / "logit" / f"{name}.yaml"
    path.write_text(TINY.format(name=name, expect=expect, paper=paper))
    shipped._scan.cache_clear()


class TestProve:
    def test_runs_every_seed_at_proof_scale_on_the_test_split(self, shelf: Path):
        put(shelf)
        lab = Lab()
        (found,) = prove("tiny", execute=lab)
        assert lab.seeds == [0, 1, 2]
        for recipe, _ in lab.asked:
            assert recipe.train.epochs == 2
            assert recipe.train.batch_size == 256
            assert recipe.evaluate_on == "test"
        assert len({folder for _, folder in lab.asked}) == 3
        assert found == evidence.read(shelf / "evidence" / "tiny.json")
        assert found.verdict == "proved"
        assert found.seeds == (0, 1, 2)
        assert found.seconds == 6.0
        assert found.runs[2].arms["control"]["accuracy"] == pytest.approx(0.52)
        assert found.command == "stillhouse prove tiny --seeds 0,1,2"
        assert state.paper_state("born-again-networks").word == "proved"

    @pytest.mark.parametrize("how", [{"overrides": ["train.epochs=1"]}, {"seeds": [7]}])
    def test_evidence_never_gives_way_to_a_changed_or_smaller_proof(self, shelf: Path, how: dict[str, Any]):
        put(shelf)
        lab = Lab()
        prove("tiny", execute=lab)
        kept, asked = (shelf / "evidence" / "tiny.json").read_bytes(), len(lab.asked)
        with pytest.raises(StillhouseError, match="holds the proof of 'tiny' as it stands"):
            prove("tiny", execute=lab, **how)
        assert (shelf / "evidence" / "tiny.json").read_bytes() == kept
        assert len(lab.asked) == asked, "and nothing was run for it"

    def test_numbers_that_are_not_finite_become_null(self, shelf: Path):
        put(shelf)
        prove("tiny", execute=Lab())
        text = (shelf / "evidence" / "tiny.json").read_text()
        assert json.loads(text, parse_constant=pytest.fail)["runs"][0]["arms"]["student"]["nll"] is None

    def test_falling_short_is_an_error_after_the_evidence_is_written(self, shelf: Path):
        put(shelf)
        lab = Lab()
        lab.gain = -0.1
        with pytest.raises(ProofFellShort, match=r"student\.accuracy > control\.accuracy by 2 se: not") as error:
            prove("tiny", execute=lab)
        assert error.value.exit_code == 4
        assert error.value.evidence == (evidence.read(shelf / "evidence" / "tiny.json"),)
        assert state.paper_state("born-again-networks").word == "fell short"

    def test_a_paper_stands_for_the_recipes_that_show_it(self, shelf: Path):
        put(shelf, "one", paper="[distilbert, born-again-networks]")
        put(shelf, "two")
        put(shelf, "three", paper="minillm")
        lab = Lab()
        found = prove("born-again-networks", execute=lab, seeds=[5, 7])
        assert [one.recipe for one in found] == ["one", "two"]
        assert lab.seeds == [5, 7, 5, 7]
        assert found[0].papers == ("distilbert", "born-again-networks")
        assert sorted(path.name for path in (shelf / "evidence").iterdir()) == ["one.json", "two.json"]

    def test_all_recipes_of_a_paper_run_though_the_first_falls_short(self, shelf: Path):
        put(shelf, "one", expect="student.accuracy > 2 * control.accuracy")
        put(shelf, "two")
        with pytest.raises(ProofFellShort) as error:
            prove("born-again-networks", execute=Lab())
        assert [one.verdict for one in error.value.evidence] == ["fell short", "proved"]

    def test_a_user_recipe_leaves_its_evidence_where_it_is_told(self, shelf: Path):
        put(shelf, expect="student.accuracy > control.accuracy")
        (shelf / "recipes" / "logit" / "tiny.yaml").rename(shelf / "mine.yaml")
        shipped._scan.cache_clear()
        (found,) = prove("mine.yaml", execute=Lab(), out=shelf / "kept", seeds=[3])
        assert found == evidence.read(shelf / "kept" / "tiny.json")
        assert found.command == "stillhouse prove mine.yaml --seeds 3"
        assert not (shelf / "evidence").exists()

    def test_overrides_are_run_and_do_not_prove_the_recipe(self, shelf: Path):
        put(shelf, expect="student.accuracy > control.accuracy")
        lab = Lab()
        (found,) = prove("tiny", execute=lab, overrides=["train.epochs=1", "evaluate_on=validation"])
        assert lab.asked[0][0].train.epochs == 1
        assert lab.asked[0][0].evaluate_on == "test"
        assert found.overrides == ("train.epochs=1", "evaluate_on=validation")
        assert state.paper_state("born-again-networks").word == "recipe"

    @pytest.mark.parametrize(
        ("name", "seeds", "said"),
        [
            ("tinyy", None, "did you mean 'tiny'"),
            ("born-again-network", None, "did you mean 'born-again-networks'"),
            ("distilbert", None, "no recipe with a proof shows 'distilbert'"),
            ("tiny", [], "seeds are"),
            ("tiny", [1, 1], "each once"),
            ("tiny", [-1], "from 0"),
            ("absent.yaml", None, "does not exist"),
        ],
    )
    def test_says_what_is_wrong_before_anything_runs(self, shelf: Path, name: str, seeds: list[int] | None, said: str):
        put(shelf)
        lab = Lab()
        with pytest.raises(StillhouseError, match=said):
            prove(name, execute=lab, seeds=seeds)
        assert not lab.asked

    def test_a_recipe_without_a_proof_is_refused(self, shelf: Path):
        put(shelf)
        path = shelf / "recipes" / "logit" / "tiny.yaml"
        path.write_text(path.read_text().partition("proof:")[0])
        with pytest.raises(StillhouseError, match="no 'proof' section"):
            prove("tiny", execute=Lab())


class TestGoingOn:
    def test_a_stopped_proof_says_how_and_keeps_what_it_has(self, shelf: Path):
        put(shelf)
        lab = Lab()
        lab.stop_at = 2
        with pytest.raises(Interrupted, match="goes on with: stillhouse prove tiny --seeds 0,1,2"):
            prove("tiny", execute=lab)
        assert not (shelf / "evidence").exists()
        lab.stop_at = None
        prove("tiny", execute=lab)
        first, again = lab.asked[0][1], lab.asked[2][1]
        assert first == again, "the second attempt must find the first one's run folders"

    def test_another_recipe_never_takes_up_these_runs(self, shelf: Path):
        put(shelf)
        lab = Lab()
        prove("tiny", execute=lab)
        prove("tiny", execute=lab, overrides=["train.epochs=1"], out=shelf / "changed")
        folders = [folder for recipe, folder in lab.asked if recipe.seed == 0]
        assert folders[0] != folders[1]

    def test_a_real_proof_goes_on_after_a_stop_and_cleans_up(self, shelf: Path, monkeypatch: pytest.MonkeyPatch):
        """The whole way: digits, a trained teacher, student and control, two seeds; stopped after the first."""
        put(shelf, expect="student.accuracy + teacher.accuracy > 0")
        from stillhouse.recipe import prove as module

        distilled: list[int] = []

        def stopping(recipe: Recipe, **how: Any) -> Any:
            if distilled and recipe.seed not in distilled:
                raise Interrupted("stopped")
            distilled.append(recipe.seed)
            return distill(recipe, **how)

        distill = module.distill
        monkeypatch.setattr(module, "distill", stopping)
        with pytest.raises(Interrupted):
            prove("tiny", seeds=[0, 1], progress=False, device="cpu")
        (folder,) = (shelf / "runs" / "proofs").iterdir()
        kept = (folder / "seed-0" / "summary.json").read_bytes()
        monkeypatch.setattr(module, "distill", distill)
        (found,) = prove("tiny", seeds=[0, 1], progress=False, device="cpu", keep_runs=True)
        assert (folder / "seed-0" / "summary.json").read_bytes() == kept, "a finished seed is not run again"
        assert json.loads(kept)["arms"] == found.runs[0].arms
        assert found.runs[0].arms != found.runs[1].arms
        assert {"teacher", "student", "control"} == found.runs[0].arms.keys()
        assert found.verdict == "proved"
        prove("tiny", seeds=[0, 1], progress=False, device="cpu")
        assert not folder.exists()


def committed() -> list[Path]:
    return sorted((Path(__file__).parents[1] / "evidence").glob("*.json"))


@pytest.mark.parametrize("path", committed(), ids=lambda path: path.stem)
def test_committed_evidence_is_what_its_numbers_say(path: Path):
    """Judged again from the numbers of each seed: a verdict cannot be typed in."""
    found = evidence.read(path)
    arms = [run.arms for run in found.runs]
    for finding in found.expectations:
        judged = parse(finding.text).judge(arms)
        assert judged.holds == finding.holds
        assert judged.why == finding.why
