"""Nothing that happens in a distillation changes a frozen teacher by a single bit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from stillhouse.engine.events import Events
from stillhouse.engine.folder import RunFolder
from stillhouse.engine.process import Process
from stillhouse.networks.kinds import ConvNet, ResNet
from stillhouse.objectives.divergences import forward_kl
from stillhouse.recipe.builder import Builder
from stillhouse.recipe.execute import run_stage
from stillhouse.recipe.plan import planned
from stillhouse.recipe.schema import Recipe
from stillhouse.sources.kinds import Digits
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

DATA = Digits().build()


def bits(module: nn.Module) -> str:
    """A hash of every parameter and buffer, by name."""
    content = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        content.update(name.encode() + value.detach().contiguous().cpu().numpy().tobytes())
    return content.hexdigest()


def model(kind: ConvNet | ResNet, seed: int) -> Model:
    torch.manual_seed(seed)
    return Model(kind.build(DATA.facts), Image().build(DATA.facts))


class Pair(nn.Module):
    """What many training loops hold: student and teacher in one module."""

    def __init__(self, teacher: Model) -> None:
        super().__init__()
        self.student = model(ConvNet(), seed=1)
        self.teacher = teacher

    def steps(self, count: int) -> None:
        """Train on everything this module owns, as carelessly as a loop can."""
        self.train()
        self.requires_grad_(True)
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.5)
        for step in range(count):
            batch = DATA.train.fetch(torch.arange(16) + step, None)
            target = self.teacher.signals(batch)["logits"]
            optimizer.zero_grad(set_to_none=False)
            forward_kl(self.student.signals(batch)["logits"], target).mean().backward()
            optimizer.step()


@pytest.mark.parametrize("frozen", [True, False])
def test_a_parent_and_its_optimizer_leave_the_teacher_alone(frozen: bool) -> None:
    teacher = model(ResNet(depth=8, width=4), seed=0)
    pair = Pair(Frozen(teacher) if frozen else teacher)
    before = bits(pair.teacher), bits(pair.student)
    pair.steps(3)
    assert (bits(pair.teacher) == before[0]) is frozen, "without Frozen the same steps must change it"
    assert bits(pair.student) != before[1]


def test_a_teacher_stays_in_eval_mode_and_answers_the_same() -> None:
    frozen = Frozen(model(ResNet(depth=8, width=4), seed=0))
    batch = DATA.test.fetch(torch.arange(8), None)
    before = frozen.signals(batch)["logits"]
    nn.ModuleList([nn.Sequential(frozen)]).train()
    assert not any(module.training for module in frozen.modules())
    assert torch.equal(frozen.signals(batch)["logits"], before)
    halves = [frozen.signals({k: v[part] for k, v in batch.items()})["logits"] for part in (slice(4), slice(4, 8))]
    torch.testing.assert_close(torch.cat(halves), before)  # batch norm must not look at the batch


@pytest.mark.parametrize("ask", [lambda net, x: net(x), lambda net, x: net.signals({"image": x, "labels": None})])
def test_a_network_put_into_training_mode_behind_the_teachers_back_is_asked_in_eval_mode(ask) -> None:
    """As where a loop holds the network itself and calls `train()` on it: batch norm would move its statistics."""
    network = ResNet(depth=8, width=4).build(DATA.facts)
    frozen = Frozen(Model(network, Image().build(DATA.facts)))
    image = DATA.train.fetch(torch.arange(16), None)["image"]
    before, answer = bits(frozen), frozen(image)
    network.train()
    ask(frozen, image)
    assert bits(frozen) == before
    torch.testing.assert_close(frozen(image), answer)


def test_signals_carry_no_gradient_and_inputs_may() -> None:
    frozen = Frozen(model(ResNet(depth=8, width=4), seed=0))
    batch = DATA.test.fetch(torch.arange(2), None)
    image = batch["image"].requires_grad_()
    wants = ("logits", "features.layer2")
    assert not any(value.requires_grad for value in frozen.signals(batch, wants).values())
    frozen(image).square().sum().backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in frozen.parameters())


REVIEWED = ["features.layer1", "features.layer2", "features.layer3"]
EXTRA: dict[str, list[dict]] = {
    "plain": [],
    "parts on the teacher's side": [
        {"signal": "features.pool", "by": "crd", "examples": len(DATA.train), "negatives": 8},
        {"signal": REVIEWED, "by": "knowledge_review"},
        {"signal": "features.layer3", "by": "factor_transfer"},
    ],
}
"""Beside the terms of every test; these train embeddings and factors of what the teacher gives."""


def recipe(student_weights: str, extra: list[dict]) -> Recipe:
    network = {"kind": "resnet", "depth": 8, "width": 4}
    optimizer = {"kind": "sgd", "lr": 0.1, "weight_decay": 0.1}
    return Recipe.model_validate(
        {
            "name": "frozen",
            "data": "digits",
            "teacher": {"network": network, "weights": {"kind": "trained", "steps": 3, "batch_size": 16}},
            "student": {"network": network, "weights": student_weights},
            "method": {
                "kind": "match",
                "terms": [
                    {"signal": "logits", "by": "kl", "temperature": 4.0},
                    {"signal": "features.layer2", "by": "mse", "project": "conv"},
                    {"signal": "labels", "by": "cross_entropy"},
                    *extra,
                ],
            },
            "train": {"steps": 5, "batch_size": 16, "optimizer": optimizer, "ema": 0.5},
            "control": False,
        }
    )


@pytest.mark.parametrize(
    ("student_weights", "extra"), [("random", "plain"), ("teacher", "plain"), ("random", [*EXTRA][1])]
)
def test_a_distillation_leaves_the_teacher_as_its_stage_left_it(
    tmp_path: Path, student_weights: str, extra: str
) -> None:
    """With `teacher`, the student starts from the teacher's own weights, which it must copy, not share.

    Every parameter and buffer counts, so batch norm's running statistics and its count of batches too.
    """
    chosen = recipe(student_weights, EXTRA[extra])
    builder = Builder(chosen)
    first, last = planned(chosen)
    with RunFolder(tmp_path / "run") as folder:
        run_stage(builder, first, Process("cpu"), folder, Events([]))
        handed = {name: value.clone() for name, value in builder.handed["teacher"].items()}
        assert chosen.teacher is not None
        teacher = builder.frozen_teacher(chosen.teacher, "teacher")
        before = bits(teacher)
        run_stage(builder, last, Process("cpu"), folder, Events([]))
    assert builder.frozen_teacher(chosen.teacher, "teacher") is teacher
    assert bits(teacher) == before
    for name, value in teacher.network.state_dict().items():
        assert torch.equal(value, handed[name]), name
        same = torch.equal(builder.handed["student"][name], value)
        assert not same or "num_batches" in name, f"the student's {name} did not move"
