"""What the documentation tells people to write is what the schema takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stillhouse.recipe.plan import planned
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.text import load

DOCS = Path(__file__).parents[1] / "docs"
BASE = {
    "name": "name: documented",
    "data": "data: digits",
    "teacher": "teacher: {network: {kind: mlp, hidden: [8]}}",
    "student": "student: {network: {kind: mlp}}",
    "method": "method: {kind: match, terms: [{by: kl}]}",
    "train": "train: {steps: 1}",
}


def fragments() -> list[str]:
    """The pieces of recipes in docs/data-and-teachers.md: a table's and a block's, one line each of `data`."""
    text = (DOCS / "data-and-teachers.md").read_text()
    found = [cell for cell in re.findall(r"`(data: \{[^`]*\})`", text) if "..." not in cell]
    for block in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL):
        lines = block.splitlines()
        found += lines if all(line.startswith("data:") for line in lines) else [block]
    return found


@pytest.mark.parametrize("fragment", fragments())
def test_pieces_of_recipes_are_recipes(fragment: str, tmp_path: Path) -> None:
    own = set(re.findall(r"^(\w+):", fragment, flags=re.MULTILINE))
    file = tmp_path / "documented.yaml"
    file.write_text("\n".join([*(line for key, line in BASE.items() if key not in own), fragment]))
    assert isinstance(load(file), Recipe)


def test_the_chain_and_its_arms_can_be_planned(tmp_path: Path) -> None:
    pieces = [piece for piece in fragments() if piece.startswith(("stages:", "arms:"))]
    file = tmp_path / "documented.yaml"
    file.write_text("\n".join([*(line for key, line in BASE.items() if key != "teacher"), *pieces]))
    stages = [stage.name for stage in planned(load(file))]
    assert stages == ["assistant-teacher", "assistant", "student", "control", "plain", "unmixed", "direct"]
