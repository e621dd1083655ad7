"""Networks that teach themselves: whose answer stands in the teacher's place, and whom a loss reaches."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Facts
from stillhouse.engine.optim import frozen_copy
from stillhouse.errors import StillhouseError
from stillhouse.methods.average import Average
from stillhouse.methods.exits import Exits
from stillhouse.methods.last_visit import LastVisit
from stillhouse.methods.roles import Roles
from stillhouse.methods.self_kinds import Average as AverageKind
from stillhouse.methods.self_kinds import Exits as ExitsKind
from stillhouse.methods.self_kinds import LastVisit as LastVisitKind
from stillhouse.networks.kinds import MLP, ConvNet, ViT
from stillhouse.objectives.feature_kinds import Cosine
from stillhouse.objectives.kinds import KL, CrossEntropy
from stillhouse.sources.arrays import ImageArray
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts("classification", (1, 8, 8), 5)
RNG = torch.Generator()
PERCEPTRON = MLP(hidden=[16, 12])


def batch(size: int = 12) -> Batch:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(size, 1, 8, 8, generator=rng)
    return {"image": images, "labels": torch.randint(5, (size,), generator=rng), "index": torch.arange(size)}


def roles(network=PERCEPTRON) -> Roles:
    torch.manual_seed(3)
    data = batch()
    source = ImageArray(data["image"], data["labels"], fingerprint="twelve")
    return Roles(Model(network.build(FACTS), ImageView(Image())), None, FACTS, batch(4), source=source)


def exits(network=PERCEPTRON, at=("layers.1", "layers.3"), **options) -> Exits:
    terms: Any = {"terms": [CrossEntropy(), KL(weight=0.5)], "exit_terms": [CrossEntropy(), KL(temperature=2.0)]}
    return ExitsKind(exits=list(at), **(terms | options)).build(roles(network))


def kl(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    p = (teacher / temperature).softmax(-1).detach()
    return temperature**2 * (p * (p.log() - (student / temperature).log_softmax(-1))).sum(-1)


def test_each_end_learns_from_the_other_and_the_labels():
    method, given = exits(), batch()
    layers: Any = method.student.module.network.layers
    first = layers[1](layers[0](given["image"].flatten(1)))
    second = layers[3](layers[2](first))
    end = layers[4](second)
    ways = [method.student.parts["layers/1"](first), method.student.parts["layers/3"](second)]
    losses = method.update_student(given, RNG)
    expected = {
        "labels/cross_entropy": functional.cross_entropy(end, given["labels"], reduction="none"),
        "logits/kl": (kl(ways[0], end) + kl(ways[1], end)) / 2,
        "exits/labels/cross_entropy": sum(functional.cross_entropy(w, given["labels"], reduction="none") for w in ways)
        / 2,
        "exits/logits/kl": (kl(end, ways[0], 2.0) + kl(end, ways[1], 2.0)) / 2,
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name].values, value)


def test_the_teachers_place_takes_no_gradient():
    method = exits(at=["layers.1"])
    layers: Any = method.student.module.network.layers
    last, way = layers[4], method.student.parts["layers/1"]
    for name, reached, spared in (("logits/kl", last, way), ("exits/logits/kl", way, last)):
        method.student.module.zero_grad()
        method.student.parts.zero_grad()
        method.update_student(batch(), RNG)[name].values.sum().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in reached.parameters())
        assert all(p.grad is None for p in spared.parameters())


@pytest.mark.parametrize(("network", "at"), [(ConvNet(width=4), "bn1"), (ViT(width=8, depth=2, heads=2), "blocks.0")])
def test_maps_and_tokens_lead_out_too(network, at):
    method = exits(network, [at])
    assert {loss.values.shape for loss in method.update_student(batch(), RNG).values()} == {(12,)}
    assert method.student.module.network.state_dict().keys() == network.build(FACTS).state_dict().keys()


def test_terms_that_do_not_fit_are_refused():
    with pytest.raises(StillhouseError, match="takes terms on logits and labels"):
        exits(terms=[Cosine(signal="features.layers.1")])
    with pytest.raises(StillhouseError, match="takes terms on logits and labels"):
        LastVisitKind(terms=[Cosine(signal="features.layers.1")]).build(roles())
    with pytest.raises(StillhouseError, match="has second_image"):
        AverageKind(terms=[KL()], teacher_sees="second_image").build(roles())


def last_visit() -> LastVisit:
    return LastVisitKind(terms=[CrossEntropy(), KL(weight=0.5)]).build(roles())


def rows(*wanted: int) -> Batch:
    return {name: value[list(wanted)] for name, value in batch().items()}


def test_an_example_is_held_to_what_was_said_of_it():
    method = last_visit()
    network = method.student.module.network
    said = network(rows(3, 5)["image"]).detach()
    first = method.update_student(rows(3, 5), RNG)
    assert torch.equal(first["logits/kl"].values, torch.zeros(2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    given = rows(5, 7, 3)
    second, now = method.update_student(given, RNG), network(given["image"])
    expected = torch.stack([kl(said[1], now[0]), torch.tensor(0.0), kl(said[0], now[2])])
    torch.testing.assert_close(second["logits/kl"].values, expected)
    labels = functional.cross_entropy(now, given["labels"], reduction="none")
    torch.testing.assert_close(second["labels/cross_entropy"].values, labels)  # of the one not seen before as well
    third = method.update_student(given, RNG)["logits/kl"].values
    torch.testing.assert_close(third, torch.zeros(3))  # nothing has changed since


def test_what_was_said_outlives_a_kill():
    one, other = last_visit(), last_visit()
    one.update_student(rows(1, 2), RNG)
    with torch.no_grad():
        for method in (one, other):
            for parameter in method.student.parameters():
                parameter.mul_(1.5)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    found = [method.update_student(rows(2, 4), RNG)["logits/kl"].values for method in (one, other)]
    assert torch.equal(*found)
    assert found[0][0] > 0
    assert found[0][1] == 0


def average(**options) -> Average:
    method = AverageKind(terms=[CrossEntropy(), KL(weight=0.5)], **options).build(roles())
    method.student.average = frozen_copy(method.student.module)  # what the engine does
    return method


def test_the_average_is_asked_about_its_own_image():
    """The engine moves the average; here it is left where it was while the student moves on."""
    method = AverageKind(terms=[CrossEntropy(), KL()], momentum=0.9).build(roles())
    assert method.student.decay == 0.9
    method, given = average(), batch()
    before = method.student.module.network(given["image"]).detach()
    with torch.no_grad():
        for parameter in method.student.module.parameters():
            parameter.mul_(1.3)
    now = method.student.module.network(given["image"])
    losses = method.update_student(given, RNG)
    torch.testing.assert_close(losses["logits/kl"].values, kl(before, now))
    labels = functional.cross_entropy(now, given["labels"], reduction="none")
    torch.testing.assert_close(losses["labels/cross_entropy"].values, labels)
    method.sees = "second_image"
    turned = {"second_image": given["image"], "image": given["image"].flip(-1)}
    other = method.update_student(given | turned, RNG)["logits/kl"].values
    torch.testing.assert_close(other, kl(before, method.student.module.network(turned["image"])))
    other.sum().backward()
    assert method.student.average is not None
    assert all(p.grad is None for p in method.student.average.parameters())


def test_features_of_the_average_are_targets_too():
    method = AverageKind(terms=[Cosine(signal="features.layers.1", project="linear")]).build(roles())
    method.student.average = frozen_copy(method.student.module)
    (loss,) = method.update_student(batch(), RNG).values()
    assert loss.values.shape == (12,)
    assert len(method.student.parts) == 1
