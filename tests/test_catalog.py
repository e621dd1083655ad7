"""The catalogue, the states derived from recipes and evidence, and the pages written from them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.catalog import evidence, page, papers, shipped, state
from stillhouse.catalog.evidence import Evidence, Finding, SeedRun
from stillhouse.errors import StillhouseError

RECIPE = """
name: {name}
about: A description   # that does not count
paper: {paper}
train: {{epochs: {epochs}}}
proof: {{seeds: [0, 1], expect: [student.accuracy > control.accuracy]}}
"""


def measured(name: str, *, holds: bool = True, **changes: object) -> Evidence:
    arms = {"student": {"accuracy": 0.9 if holds else 0.7}, "control": {"accuracy": 0.8}}
    text = "student.accuracy > control.accuracy"
    finding = Finding(text, holds, arms["student"]["accuracy"], 0.8, 0.1 if holds else -0.1, 0.0, "0.9 > 0.8")
    known = Evidence(
        recipe=name,
        papers=("born-again-networks",),
        fingerprint=shipped.recipes()[name].fingerprint,
        overrides=(),
        version="0.1.0",
        code="0" * 64,
        date="2026-01-31",
        seeds=(0, 1),
        runs=(SeedRun(0, 30.0, arms), SeedRun(1, 31.0, arms)),
        expectations=(finding,),
        environment={"python": "3.12"},
        command=f"stillhouse prove {name} --seeds 0,1",
    )
    return dataclasses.replace(known, **changes)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recipes and one of evidence in place of the package's own."""
    (tmp_path / "recipes" / "logit").mkdir(parents=True)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "recipes")
    monkeypatch.setattr(evidence, "home", lambda: tmp_path / "evidence")
    shipped._scan.cache_clear()
    return tmp_path


def put(shelf: Path, name: str, paper: str = "born-again-networks", epochs: int = 3) -> None:
    text = RECIPE.format(name=name, paper=paper, epochs=epochs)
    (shelf / "recipes" / "logit" / f"{name}.yaml").write_text(text)
    shipped._scan.cache_clear()


class TestPapers:
    def test_every_field_of_every_paper_is_there(self):
        everything = papers.papers()
        assert len(everything) == 591
        assert len({paper.title for paper in everything}) >= 590
        for paper in everything:
            assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", paper.key), paper.key
            assert paper.title
            assert paper.mechanism
            assert set(paper.also) <= papers.families().keys()

    def test_counts_and_filters_agree(self):
        assert sum(papers.families().values()) == sum(papers.kinds().values()) == 591
        in_family = papers.papers(family="logit")
        assert all("logit" in (paper.family, *paper.also) for paper in in_family)
        assert len(in_family) > papers.families()["logit"]
        assert len(papers.papers(kind="survey")) == papers.kinds()["survey"]

    @pytest.mark.parametrize(
        ("ask", "nearest"),
        [
            (lambda: papers.paper("born-again-network"), "'born-again-networks'"),
            (lambda: papers.paper("q" * 5000), "list papers"),
            (lambda: papers.papers(family="logits"), "'logit'"),
            (lambda: papers.papers(kind="methods"), "'method'"),
        ],
    )
    def test_unknown_words_offer_the_nearest(self, ask, nearest: str):
        with pytest.raises(StillhouseError, match=nearest) as error:
            ask()
        assert len(str(error.value)) < 600

    def test_listing_needs_neither_torch_nor_pydantic(self):
        code = (
            "import sys; from stillhouse.catalog import papers, state\n"
            "[state.paper_state(p.key) for p in papers.papers()]\n"
            "print(sorted({'torch', 'pydantic', 'numpy'} & sys.modules.keys()))"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == "[]"


class TestShipped:
    def test_recipes_of_the_package_name_papers_that_exist(self):
        for recipe in shipped.recipes().values():
            for key in recipe.papers:
                papers.paper(key)

    def test_fingerprint_follows_what_a_recipe_does(self, shelf: Path):
        put(shelf, "one")
        before = shipped.recipes()["one"].fingerprint
        path = shelf / "recipes" / "logit" / "one.yaml"
        path.write_text("# a comment\n" + path.read_text().replace("A description", "Another"))
        shipped._scan.cache_clear()
        assert shipped.recipes()["one"].fingerprint == before
        put(shelf, "one", paper="[born-again-networks, distilbert]")
        assert shipped.recipes()["one"].fingerprint == before
        assert shipped.recipes()["one"].papers == ("born-again-networks", "distilbert")
        put(shelf, "one", epochs=4)
        assert shipped.recipes()["one"].fingerprint != before


class TestEvidence:
    def test_comes_back_as_it_was_written(self, shelf: Path):
        put(shelf, "one")
        before = measured("one", holds=False)
        path = before.write(shelf / "evidence")
        assert path.name == "one.json"
        assert evidence.read(path) == before
        assert json.loads(path.read_text())["verdict"] == before.verdict == "fell short"
        assert os.listdir(shelf / "evidence") == ["one.json"]

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda data: data.update(verdict="proved"),
            lambda data: data.update(seeds=[0, 1, 2]),
            lambda data: data.update(runs=[], seeds=[]),
            lambda data: data.pop("verdict"),
            lambda data: data.update(surprise=1),
            lambda data: data.update(runs=[{"seed": 0}]),
        ],
    )
    def test_a_file_that_was_edited_is_refused(self, shelf: Path, spoil):
        put(shelf, "one")
        path = measured("one", holds=False).write(shelf / "evidence")
        data = json.loads(path.read_text())
        spoil(data)
        path.write_text(json.dumps(data))
        with pytest.raises(StillhouseError, match=r"one\.json"):
            evidence.read(path)

    @pytest.mark.parametrize("text", ["", "[]", "{", "null"])
    def test_what_is_no_evidence_is_refused(self, tmp_path: Path, text: str):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(StillhouseError, match=r"x\.json"):
            evidence.read(tmp_path / "x.json")

    def test_a_wheel_carries_it(self, tmp_path: Path):
        pytest.importorskip("setuptools")
        root = Path(__file__).parents[1]
        for name in ("setup.py", "pyproject.toml"):
            shutil.copy(root / name, tmp_path)
        (tmp_path / "README.md").touch()
        for folder, name in (("evidence", "one.json"), ("src/stillhouse", "__init__.py")):
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / name).write_text("")
        build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", "built"]
        subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
        assert (tmp_path / "built" / "stillhouse" / "evidence" / "one.json").is_file()


class TestState:
    def test_climbs_from_no_recipe_to_proved(self, shelf: Path):
        key = "born-again-networks"
        assert state.paper_state(key).word == "no recipe"
        put(shelf, "one")
        assert state.paper_state(key) == state.State("recipe", "not proved yet", "one")
        measured("one", holds=False).write(shelf / "evidence")
        assert state.paper_state(key).word == "fell short"
        measured("one").write(shelf / "evidence")
        proved = state.paper_state(key)
        assert proved.word == "proved"
        assert proved.note == "proved on 2026-01-31 by version 0.1.0, seeds 0, 1"
        assert state.paper_state("distilbert").word == "no recipe"

    def test_evidence_for_another_recipe_text_does_not_count(self, shelf: Path):
        put(shelf, "one")
        measured("one").write(shelf / "evidence")
        put(shelf, "one", epochs=4)
        now = state.paper_state("born-again-networks")
        assert now.word == "recipe"
        assert "proved on 2026-01-31" in now.note
        assert "changed since" in now.note

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"overrides": ("train.epochs=9",)}, "with train.epochs=9"),
            ({"seeds": (0,)}, "on 1 of 2 seeds"),
        ],
    )
    def test_a_lesser_proof_does_not_count(self, shelf: Path, changes: dict[str, object], said: str):
        put(shelf, "one")
        found = measured("one", **changes)
        dataclasses.replace(found, runs=found.runs[: len(found.seeds)]).write(shelf / "evidence")
        now = state.paper_state("born-again-networks")
        assert now.word == "recipe"
        assert said in now.note

    def test_the_furthest_recipe_speaks_for_the_paper(self, shelf: Path):
        for name, holds in (("one", False), ("three", True), ("two", False)):
            put(shelf, name)
            measured(name, holds=holds).write(shelf / "evidence")
        put(shelf, "four")
        words = [found.word for found in state.paper_states("born-again-networks")]
        assert words == ["proved", "fell short", "fell short", "recipe"]
        assert state.paper_state("born-again-networks").recipe == "three"


class TestPages:
    def test_table_tells_by_family_what_was_proved_and_what_fell_short(self, shelf: Path):
        put(shelf, "one")
        put(shelf, "two")
        put(shelf, "three")
        measured("one").write(shelf / "evidence")
        measured("two", holds=False).write(shelf / "evidence")
        rows = [line for line in page.recipe_table().splitlines() if "docs/evidence.md#" in line]
        assert len(rows) == 1, "all are of one family"
        _, proved, short = rows[0].strip("| ").split(" | ")
        assert (proved, short) == ("[`one`](docs/evidence.md#one)", "[`two`](docs/evidence.md#two)")
        assert "`three` (not proved yet)" in page.recipe_table()

    def test_the_evidence_page_holds_every_expectation(self, shelf: Path):
        put(shelf, "one")
        put(shelf, "two")
        measured("one").write(shelf / "evidence")
        measured("two", holds=False).write(shelf / "evidence")
        one, two = page.measured().split("### one\n")[1].split("### two\n")
        assert "0.9 > 0.8" in one
        assert "**proved**, 2026-01-31" in one
        assert "(**fell short**)" in two

    def test_table_says_how_far_the_recipes_reach_into_the_catalogue(self, shelf: Path):
        put(shelf, "one")
        measured("one").write(shelf / "evidence")
        assert "lists 591 papers" in page.recipe_table()
        assert "590 have none yet. Those that have one: 1 proved." in page.recipe_table()
        assert "show no paper" not in page.recipe_table()

    def test_catalogue_lists_every_paper_once_and_counts_states(self, shelf: Path):
        put(shelf, "one")
        measured("one").write(shelf / "evidence")
        text = page.catalogue()
        keys = re.findall(r"^\| `([^`]+)`", text, flags=re.MULTILINE)
        assert sorted(keys) == sorted(paper.key for paper in papers.papers())
        assert "591 papers in 37 families: 1 proved, 0 whose proof fell short, 0 with" in text
        assert "| [self-online](#self-online) | 14 | 1 |" in text

    def test_only_what_lies_between_the_markers_changes(self, shelf: Path):
        readme = shelf / "README.md"
        readme.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
        new = page.with_table(readme)
        assert new.startswith(f"before\n{page.BEGIN}\n| family |")
        assert new.endswith(f"{page.END}\nafter\n")
        assert "old" not in new
        readme.write_text(new)
        assert page.with_table(readme) == new
        readme.write_text(f"{page.END} {page.BEGIN}")
        with pytest.raises(StillhouseError, match="evidence:begin"):
            page.with_table(readme)

    def test_the_pages_of_this_checkout_are_up_to_date(self):
        stale = [path.name for path, text in page.pages().items() if path.read_text(encoding="utf-8") != text]
        assert not stale, "run: python -m stillhouse.catalog.page"
