"""A saved student of every sort of task is loaded as what it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stillhouse.engine.contracts import Batch, Facts
from stillhouse.networks.kinds import FCN, MLP, NetworkKind
from stillhouse.networks.task_kinds import GFL, SpanParser, SuperResolver
from stillhouse.students.load import load_student
from stillhouse.students.save import save_student
from stillhouse.views.kinds import Detection, Field, Image, Row, Segmentation, ViewKind

IMAGE = {"image": torch.rand(2, 1, 8, 8)}
CASES = [
    ("classification", (5,), MLP(hidden=[4]), None, Row(), {"features": torch.randn(2, 5)}),
    ("segmentation", (1, 8, 8), FCN(), None, Segmentation(), IMAGE),
    ("detection", (1, 8, 8), GFL(), None, Detection(), IMAGE),
    ("restoration", (1, 8, 8), SuperResolver(factor=2, hidden=[8]), None, Image(), IMAGE),
    ("parsing", (6,), SpanParser(width=4), Field(field="input_ids"), None, {"input_ids": torch.randint(3, (2, 6))}),
]


@pytest.mark.parametrize(("task", "shape", "kind", "named", "plain", "batch"), CASES, ids=[case[0] for case in CASES])
def test_a_student_says_what_it_said(
    task: str,
    shape: tuple[int, ...],
    kind: NetworkKind,
    named: ViewKind | None,
    plain: ViewKind | None,
    batch: Batch,
    tmp_path: Path,
) -> None:
    """`named` is the view that the recipe names; without one, `plain` is what a run gives the student."""
    facts = Facts(task, shape, 3, ("a", "b", "c"))
    network = kind.build(facts).eval()
    save_student(network, kind, facts, tmp_path / "student", view=named, sampler=None)
    loaded = load_student(tmp_path)
    view: Any = (named or plain).build(facts)  # type: ignore[union-attr]
    inputs = view.inputs(batch)
    with torch.no_grad():
        expected = view.read(network(inputs.pop(""), **inputs), batch)
        found = loaded.signals(batch, ())
    assert type(loaded.view) is type(view)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_every_network_a_recipe_may_name_can_be_loaded() -> None:
    """In a process of its own: here other tests have registered them all."""
    program = (
        "import stillhouse.students.load\n"
        "from stillhouse.kinds import kinds\n"
        "known = set(kinds('network')), set(kinds('view'))\n"
        "import stillhouse.recipe.schema\n"
        "missing = (set(kinds('network')) | set(kinds('view'))) - known[0] - known[1]\n"
        "assert not missing, missing"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
