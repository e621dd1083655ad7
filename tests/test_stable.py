"""StableKD: which loss reaches which block, when a cut is mended, and what is left in the end."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.methods.kinds import Match
from stillhouse.methods.online_kinds import StableKD
from stillhouse.methods.roles import Roles
from stillhouse.networks.kinds import ResNet
from stillhouse.objectives.kinds import KL, MSE, CrossEntropy
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts("classification", (1, 8, 8), 4)
BLOCKS = ["layer1", "layer2"]
TERMS = [KL(temperature=2.0), CrossEntropy(weight=0.5)]


def model(seed: int, width: int, depth: int = 8) -> Model:
    torch.manual_seed(seed)
    return Model(ResNet(depth=depth, width=width).build(FACTS), ImageView(Image()))


def batch(size: int = 6) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(size, 1, 8, 8, generator=rng)
    return {"image": images, "labels": torch.randint(4, (size,), generator=rng)}


def stable(width: int = 4, teacher: int = 6, **options):
    kind = StableKD(**({"blocks": BLOCKS, "terms": TERMS} | options))
    torch.manual_seed(9)
    return kind.build(Roles(model(2, width), Frozen(model(1, teacher, depth=14)), FACTS, batch()))


def reached(method, *names: str) -> set[str]:
    """The modules of the network, and the adapters, that these terms give a gradient."""
    losses = method.update_student(batch(), torch.Generator())
    method.student.module.zero_grad()
    method.student.parts.zero_grad()
    torch.stack([losses[name].weight * losses[name].values.mean() for name in names]).sum().backward()
    modules: dict[str, nn.Module] = dict(method.student.module.network.named_children())
    modules |= {f"adapter/{name}": part for name, part in method.student.parts.named_children()}
    return {
        name
        for name, module in modules.items()
        if any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())
    }


def test_every_block_is_on_its_own():
    """A block's loss reaches that block and the adapter it reads through, and nothing before."""
    method = stable()
    losses = method.update_student(batch(), torch.Generator())
    assert list(losses) == ["logits/kl", "labels/cross_entropy", "block/layer1", "block/layer2"]
    assert losses["block/layer1"].values.shape == (6,)
    assert reached(method, "block/layer1") == {"conv1", "bn1", "layer1"}
    assert reached(method, "block/layer2") == {"adapter/layer1", "layer2"}
    assert reached(method, "logits/kl", "labels/cross_entropy") == {"adapter/layer2", "layer3", "linear"}
    method.progress = 0.3  # the first cut is mended
    assert reached(method, "block/layer2") == {"conv1", "bn1", "layer1", "layer2"}


def test_the_blocks_read_the_teacher():
    """Against the blocks called by hand."""
    method = stable(width=6, teacher=6)
    assert len(method.student.parts) == 0
    given = batch()
    method.student.module.eval()
    losses = method.update_student(given, torch.Generator())
    student, teacher = method.student.module.network, method.teacher.network
    theirs = teacher.bn1(teacher.conv1(given["image"])).relu()
    first = teacher.layer1(theirs)
    second = teacher.layer2(first)
    expected = (student.layer2(first) - second).square().mean((1, 2, 3))
    torch.testing.assert_close(losses["block/layer2"].values, expected)
    logits = student.linear(student.layer3(second).mean((2, 3)))
    answer = teacher.linear(teacher.layer3(second).mean((2, 3)))
    p = (answer / 2).softmax(-1)
    kl = 4 * (p * (p.log() - (logits / 2).log_softmax(-1))).sum(-1)
    torch.testing.assert_close(losses["logits/kl"].values, kl, atol=1e-5, rtol=1e-4)


def test_an_adapter_gives_what_the_block_can_give():
    """No negative number where the student's block ends in a rectifier."""
    method, given = stable(), batch()
    theirs = method.teacher.signals(given, ["features.layer1"])["features.layer1"]
    read = method.student.parts["layer1"](theirs)
    assert read.shape == (6, 4, 8, 8)
    assert read.min() == 0 < read.max()


def test_cuts_are_mended_in_order():
    method = stable(whole=0.5)
    found = {}
    for progress in (0.0, 0.24, 0.25, 0.49, 0.5, 0.99):
        method.progress = progress
        found[progress] = method.open_cuts()
    assert found == {0.0: BLOCKS, 0.24: BLOCKS, 0.25: ["layer2"], 0.49: ["layer2"], 0.5: [], 0.99: []}


def test_mended_it_is_plain_distillation():
    method, given = stable(), batch()
    method.progress = 0.8
    plain = Match(terms=TERMS).build(Roles(model(2, 4), method.teacher, FACTS, given))
    found, expected = (m.update_student(given, torch.Generator()) for m in (method, plain))
    assert list(found) == list(expected)
    for name, loss in expected.items():
        torch.testing.assert_close(found[name].values, loss.values)
    names = [name for name, _ in method.student.module.network.named_parameters()]
    assert names == [name for name, _ in plain.student.module.network.named_parameters()]


def test_misfits_are_told():
    with pytest.raises(StillhouseError, match="needs a teacher"):
        StableKD(blocks=BLOCKS, terms=TERMS).build(Roles(model(2, 4), None, FACTS, batch()))
    with pytest.raises(StillhouseError, match="layer2"):
        stable(blocks=["layer2x"])
    with pytest.raises(StillhouseError, match="resolution"):
        stable(teacher_blocks=["layer2", "layer3"])
    with pytest.raises(StillhouseError, match="has parts"):
        stable(terms=[MSE(signal="features.layer1", project="conv")])
    with pytest.raises(ValueError, match="name as many"):
        StableKD(blocks=BLOCKS, teacher_blocks=["layer1"], terms=TERMS)
