"""A step towards experts that is itself learnt: the step, the way back through it, and what is measured after it."""

from __future__ import annotations

import pytest
import torch

from stillhouse.engine.contracts import Batch, Data, Facts
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.adaptation import adapted_accuracy
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.evaluation.task_kinds import AdaptedAccuracy
from stillhouse.methods.meta_experts import expert_features
from stillhouse.methods.multi_kinds import MetaExperts
from stillhouse.methods.roles import Roles
from stillhouse.networks.kinds import MLP
from stillhouse.networks.task_kinds import Adapting
from stillhouse.sources.altered_kinds import Domains
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.kinds import Digits
from stillhouse.sources.made_kinds import Glyphs
from stillhouse.sources.shown import turned
from stillhouse.teachers.ensemble import Ensemble
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts("classification", (1, 4, 4), 3)
PLAIN = ImageView(Image())


def student(rate: float = 0.1) -> Model:
    torch.manual_seed(0)
    kind = Adapting(of=MLP(hidden=[8]), tap="layers.1", expert_tap="layers.1", width=8, heads=2, rate=rate)
    return Model(kind.build(FACTS), PLAIN)


def experts(count: int = 3) -> Ensemble:
    torch.manual_seed(1)
    return Ensemble({f"e{n}": Model(MLP(hidden=[8]).build(FACTS), PLAIN) for n in range(count)})


def batch(size: int = 24, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return {
        "image": torch.rand(size, 1, 4, 4, generator=rng),
        "labels": torch.randint(3, (size,), generator=rng),
        "domain": torch.arange(size) % 3,
    }


def test_the_step_goes_towards_the_aggregated_features() -> None:
    network, given = student().network, batch()
    features = expert_features(experts(), "layers.1", given)
    assert features.shape == (24, 3, 8)
    theta = network.adapted(given["image"], features)
    x = given["image"].flatten(1)
    weight, bias = (network.backbone.layers[0].__getattr__(name).detach() for name in ("weight", "bias"))
    hidden = torch.relu(x @ weight.T + bias)
    apart = 2 * (hidden - network.aggregator(features).mean(1)) * (hidden > 0) / len(x)
    torch.testing.assert_close(theta["layers.0.weight"], weight - 0.1 * apart.T @ x)
    torch.testing.assert_close(theta["layers.0.bias"], bias - 0.1 * apart.sum(0))
    assert torch.equal(theta["layers.2.weight"], network.backbone.layers[2].weight)  # the head has no part in it


def test_the_gradient_goes_through_the_step() -> None:
    """Of the query's loss with respect to a weight of the aggregator, by finite differences in float64."""
    network, given = student(rate=0.5).network.double(), batch()
    image = given["image"].double()
    features = torch.randn(12, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def query() -> torch.Tensor:
        theta = network.adapted(image[:12], features, create_graph=True)
        return torch.nn.functional.cross_entropy(network.answer(theta, image[12:]), given["labels"][12:])

    for parameter in (network.aggregator.linear2.bias, network.backbone.layers[0].bias):
        (exact,) = torch.autograd.grad(query(), parameter)
        place = int(exact.abs().argmax())
        with torch.no_grad():
            parameter[place] += 1e-6
        above = float(query().detach())
        with torch.no_grad():
            parameter[place] -= 2e-6
        below = float(query().detach())
        with torch.no_grad():
            parameter[place] += 1e-6
        assert float(exact[place]) == pytest.approx((above - below) / 2e-6, rel=1e-4)


def test_an_expert_is_not_asked_about_its_own_domain() -> None:
    teacher = experts()
    method = MetaExperts().build(Roles(student(), teacher, FACTS, batch(6)))
    given = batch()
    given["domain"] = torch.full((24,), 1)
    before = method.update_student(given, torch.Generator().manual_seed(0))["query"].values
    with torch.no_grad():
        for parameter in teacher.members["e1"].network.parameters():
            parameter.mul_(-3)
    same = method.update_student(given, torch.Generator().manual_seed(0))["query"].values
    assert torch.equal(before, same)
    assert len(before) == 12
    with torch.no_grad():
        for parameter in teacher.members["e0"].network.parameters():
            parameter.mul_(-3)
    other = method.update_student(given, torch.Generator().manual_seed(0))["query"].values
    assert not torch.equal(before, other)
    assert len(method.update_student(batch(), torch.Generator())["query"].values) == 12  # half of each of three domains


def test_measured_after_a_step_on_each_batch_alone() -> None:
    given, model, teacher = batch(20), student(rate=2.0), experts()
    source = ImageArray(given["image"], given["labels"], fingerprint="x")
    context = Context(Data(source, source, source, FACTS), source, {"teacher": Arm("teacher", teacher)}, 0, "cpu")
    found = adapted_accuracy(AdaptedAccuracy(batch_size=10), Arm("student", model), context)
    right = []
    for rows in (slice(0, 10), slice(10, 20)):
        part = {"image": given["image"][rows]}
        theta = model.network.adapted(part["image"], expert_features(teacher, "layers.1", part))
        right += (model.network.answer(theta, part["image"]).argmax(-1) == given["labels"][rows]).double().tolist()
    assert found.per_example["adapted_accuracy"] == right
    plain = Arm("control", Model(model.network.backbone, PLAIN))
    expected = (plain.model.signals({"image": given["image"]})["logits"].argmax(-1) == given["labels"]).double().mean()
    assert adapted_accuracy(AdaptedAccuracy(), plain, context).metrics["adapted_accuracy"] == pytest.approx(
        float(expected)
    )


def test_domains_are_turned_each_by_its_own_angle_and_one_is_held_out() -> None:
    plain = Digits(shift=0).build()
    data = Domains(of=Digits(shift=0), degrees=[0, 90], held_out=180).build()
    rows = torch.arange(9)
    seen, images = data.train.fetch(rows, None), plain.train.fetch(rows, None)["image"]
    second = seen["domain"] == 1
    assert 0 < second.sum() < 9
    torch.testing.assert_close(seen["image"][~second], images[~second], atol=1e-5, rtol=0)
    torch.testing.assert_close(seen["image"][second], turned(images[second], 90.0))
    tested = data.test.fetch(rows, None)
    torch.testing.assert_close(tested["image"], plain.test.fetch(rows, None)["image"].flip(2, 3), atol=1e-5, rtol=0)
    assert (tested["domain"] == -1).all()


def test_every_class_is_in_every_domain_even_where_classes_come_by_turns() -> None:
    """Four characters by turns and two domains: by turns as well, a domain would have two of them alone."""
    characters = Glyphs(characters="ABCD", fonts=["DejaVuSans"], size=8, train=80, validation=4, test=4)
    batch = Domains(of=characters, degrees=[0, 90], held_out=180).build().train.fetch(torch.arange(80), None)
    counts = torch.zeros(4, 2).index_put((batch["labels"], batch["domain"]), torch.ones(80), accumulate=True)
    assert counts.sum(0).tolist() == [40, 40]
    assert counts.min() > 2


def test_a_student_that_cannot_adapt_is_refused() -> None:
    model = Model(MLP(hidden=[8]).build(FACTS), PLAIN)
    with pytest.raises(StillhouseError, match="kind: adapting"):
        MetaExperts().build(Roles(model, experts(), FACTS, batch(6)))
