"""Talking models: what each side reads, and who learns from which distance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Facts
from stillhouse.errors import StillhouseError
from stillhouse.methods.feature_kinds import Talking as Kind
from stillhouse.methods.roles import Roles
from stillhouse.methods.talking import Talking
from stillhouse.networks.kinds import MLP
from stillhouse.objectives.kinds import KL, CrossEntropy
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts("classification", (1, 4, 4), 5)
TAPS: Any = {"asks": "layers.1", "hears": "layers.3", "asked": "layers.1", "answers": "layers.3"}


def batch(size: int = 12) -> Batch:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(size, 1, 4, 4, generator=rng)
    return {"image": images, "labels": torch.randint(5, (size,), generator=rng), "index": torch.arange(size)}


def model(seed: int, hidden: list[int]) -> Model:
    torch.manual_seed(seed)
    return Model(MLP(hidden=hidden).build(FACTS), ImageView(Image()))


def made(student: list[int] | None = None, **options: Any) -> Talking:
    roles = Roles(model(1, student or [8, 8]), Frozen(model(2, [12, 12, 12])), FACTS, batch(4))
    return Kind(**(TAPS | {"terms": [CrossEntropy()], "message": 6} | options)).build(roles)


def test_the_student_reads_what_the_teacher_says_and_what_it_replies():
    method, given = made(consistency=0.5), batch()
    own: Any = method.student.module.network.layers
    theirs: Any = method.teacher.network.layers
    part = method.student.parts
    x = given["image"].flatten(1)
    first, early = own[:2](x), theirs[:2](x)
    last, late = own[2:4](first), theirs[2:4](early)
    question = part["student_encoder"](first)
    reply = theirs[2:4](part["teacher_decoder"](question))
    decoded = {n: part["student_decoder"](part["teacher_encoder"](v)) for n, v in (("told", late), ("replied", reply))}

    def labelled(state: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(own[4](state), given["labels"], reduction="none")

    said, known = part["teacher_encoder"](late), part["teacher_encoder"](early)
    expected = {
        "labels/cross_entropy": labelled(last),
        "message": (part["student_encoder"](last) - said).square().mean(1),
        "language": (part["teacher_decoder"](said) - late).square().mean(1),
        "question": (question - known).square().mean(1),
        "reply": (reply - late).square().mean(1),
    }
    for name, state in decoded.items():
        expected[f"{name}/labels/cross_entropy"] = labelled(state)
        expected[f"{name}/state"] = (last - state).square().mean(1)
    losses = method.update_student(given, torch.Generator())
    assert losses.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(losses[name].values, values)
        assert losses[name].weight == (1.0 if "labels" in name else 0.5)


def test_who_learns_from_what():
    method = made()
    modules: dict[str, Any] = dict(method.student.parts.items())
    layers: Any = method.student.module.network.layers
    modules |= {"early": layers[0], "later": layers[2], "head": layers[4]}
    talk = {"student_decoder", "teacher_encoder", "head"}
    expected = {
        "told/labels/cross_entropy": talk,
        "replied/labels/cross_entropy": talk | {"student_encoder", "teacher_decoder", "early"},
        "message": {"student_encoder", "early", "later"},
        "language": {"teacher_encoder", "teacher_decoder"},
        "question": {"student_encoder", "early"},
        "reply": {"student_encoder", "teacher_decoder", "early"},
        "told/state": {"early", "later"},
        "replied/state": {"early", "later"},
    }
    for name, reached in expected.items():
        for module in modules.values():
            module.zero_grad()
        method.update_student(batch(), torch.Generator())[name].values.sum().backward()
        found = {
            n for n, m in modules.items() if any(p.grad is not None and p.grad.abs().max() > 0 for p in m.parameters())
        }
        assert found == reached, name
    assert all(p.grad is None for p in method.teacher.parameters())


def test_one_way_the_teacher_alone_speaks():
    method = made(two_way=False, terms=[CrossEntropy(), KL(temperature=2.0)])
    names = set(method.update_student(batch(), torch.Generator()))
    plain = {"labels/cross_entropy", "logits/kl"}
    assert names == plain | {f"told/{name}" for name in plain} | {"told/state", "message", "language"}


def test_layers_of_two_widths_are_refused():
    with pytest.raises(StillhouseError, match=r"\[\[4, 8\], \[4, 6\]\]"):
        made(student=[8, 6])
