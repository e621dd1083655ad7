"""stillhouse show: recipes, sections of recipes, kinds, and what is near a word that names none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from stillhouse.catalog.shipped import recipes
from stillhouse.catalog.state import recipe_state
from stillhouse.cli.list import FAMILIES
from stillhouse.cli.main import main
from stillhouse.engine.settings import Train
from stillhouse.kinds import Kind
from stillhouse.recipe.registry import known
from stillhouse.recipe.schema import ArmSpec, Proof, Recipe, StageSpec, TeacherSpec

Show = Callable[..., tuple[int, str, str]]


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """Run `stillhouse show` in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["show", *arguments])
        out, err = capsys.readouterr()
        code = left.value.code
        return (code if isinstance(code, int) else int(code is not None)), out, err

    return run


@pytest.fixture(scope="module")
def proved() -> str:
    """A shipped recipe that is proved as it stands."""
    return next(name for name, recipe in recipes().items() if recipe_state(recipe).word == "proved")


def test_only_the_unchanged_recipe_is_proved(show: Show, proved: str) -> None:
    last = show(proved)[1].splitlines()[-1]
    assert last.startswith("# proved on ")
    assert last.count("proved") == 1
    assert show(proved, "seed=7")[1].splitlines()[-1] == last  # a proof is over seeds
    changed = show(proved, "train.batch_size=7")[1].splitlines()[-1]
    assert changed.startswith("# not proved with train.batch_size=7; as it ships, ")
    assert json.loads(show(proved, "--json")[1])["state"] == "proved"
    assert json.loads(show(proved, "train.batch_size=7", "--json")[1])["state"] == "recipe"


@pytest.mark.parametrize(
    ("section", "model"),
    [("train", Train), ("teacher", TeacherSpec), ("stages", StageSpec), ("arms", ArmSpec), ("control", ArmSpec),
     ("proof", Proof)],
)  # fmt: skip
def test_a_section_shows_its_options_with_what_they_mean(show: Show, section: str, model: Any) -> None:
    code, out, _ = show(section)
    assert code == 0
    assert out.startswith(f"{section}: a section of recipes (")
    for name, field in model.model_fields.items():
        assert f"\n{name} " in out
        assert " ".join((field.description or "").split()) in out


def test_every_section_can_be_shown(show: Show) -> None:
    for name, field in Recipe.model_fields.items():
        code, out, _ = show(name)
        assert code == 0
        assert out.startswith(f"{name}: a section of recipes ({'required' if field.is_required() else 'default'}")
        assert json.loads(show(name, "--json")[1])["section"]["name"] == name
    assert "Takes 'validation' or 'test'." in show("evaluate_on")[1]
    assert "digits" in show("data")[1]


def test_a_word_that_is_a_section_and_a_kind_shows_both(show: Show) -> None:
    assert "teacher" in known("weights")
    out = show("teacher")[1]
    assert out.index("teacher: a section of recipes") < out.index("weights teacher\n")


def specs(value: Any, word: str) -> list[dict[str, Any]]:
    """The options in an example that name the kind."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value] if isinstance(value, dict) and word in (value.get("kind"), value.get("by")) else []
    return own + [spec for item in below for spec in specs(item, word)]


def refused(kind: type[Kind], spec: dict[str, Any]) -> set[Any]:
    """The options that the kind does not take as they stand."""
    try:
        kind.model_validate(spec)
    except ValidationError as error:
        return {each["loc"][0] for each in error.errors() if each["loc"]}
    return set()


def test_every_kind_shows_a_line_of_yaml_that_uses_it(show: Show) -> None:
    for family in FAMILIES.values():
        for name, kind in known(family).items():
            out = show(name)[1].split(f"{family} {name}\n")[1]
            line = next(line for line in out.splitlines() if line.startswith("in a recipe: "))
            example = yaml.safe_load(line.removeprefix("in a recipe: "))
            assert set(example) <= set(Recipe.model_fields)
            (spec,) = specs(example, name)
            required = {n for n, field in kind.model_fields.items() if field.is_required()}
            assert refused(kind, spec) <= required  # capitals stand for what only the user knows, as a number


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("kd-digit", "did you mean 'kd-digits'?"),
        ("trian", "did you mean 'train'?"),
        ("hinton", "closest: "),
        ("knowledge", "closest: "),
    ],
)
def test_only_a_near_word_is_offered(show: Show, word: str, said: str) -> None:
    code, _, err = show(word)
    assert code == 2
    assert said in err
    assert ("did you mean" in err) == ("did you mean" in said)
