"""DisWOT's score of an untrained architecture."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stillhouse.engine.contracts import Data, Facts
from stillhouse.errors import StillhouseError
from stillhouse.evaluation import architecture
from stillhouse.evaluation.architecture_kinds import DisWOT
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.networks.kinds import ConvNet
from stillhouse.sources.kinds import Digits
from stillhouse.teachers.ensemble import Ensemble
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts("classification", (1, 8, 8), 10)


@pytest.fixture(scope="module")
def data() -> Data:
    return Digits(shift=0, limit=60).build()


def model(width: int) -> Model:
    return Model(ConvNet(width=width).build(FACTS), ImageView(Image()))


def score(data: Data, student: Model, teacher: Model, **words: object) -> float:
    arms = {name: Arm(name, one) for name, one in (("teacher", teacher), ("student", student))}
    context = Context(data, data.validation, arms, seed=0, device="cpu")
    return architecture.diswot(DisWOT.model_validate(words), arms["student"], context).metrics["diswot_score"]


def testrelations_of_classes_are_those_of_the_true_gradient(data: Data) -> None:
    """Against autograd on the last layer's weights, of a network drawn with the same seed."""
    network = model(3)
    batch = data.validation.fetch(torch.arange(20), None)
    by_class, by_example = architecture.relations(network, "features.pool", batch, seed=5)
    torch.manual_seed(5)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    signals = network.train().signals(batch, ["logits", "features.pool"])
    nn.functional.cross_entropy(signals["logits"], batch["labels"]).backward()
    gradient = network.network.linear.weight.grad.double()
    for a in range(10):
        for b in range(10):
            cosine = nn.functional.cosine_similarity(gradient[a], gradient[b], dim=0)
            assert by_class[a, b].item() == pytest.approx(cosine.item(), abs=1e-4)
    gram = signals["features.pool"].double() @ signals["features.pool"].double().T
    torch.testing.assert_close(by_example, gram / gram.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_training_does_not_move_the_score_and_the_score_does_not_move_the_weights(data: Data) -> None:
    student, teacher = model(3), model(8)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    state = torch.random.get_rng_state()
    first = score(data, student, teacher)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert score(data, student, teacher) == first


def test_a_student_as_wide_as_its_teacher_fits_better_than_a_narrow_one(data: Data) -> None:
    teacher = model(32)
    narrow, wide = score(data, model(1), teacher, draws=8), score(data, model(32), teacher, draws=8)
    assert narrow < wide < 0


def test_a_frozen_teacher_is_looked_at_as_a_student_is_and_several_are_refused(data: Data) -> None:
    student, teacher = model(3), model(8)
    free = score(data, student, teacher)
    frozen = Frozen(teacher)
    assert score(data, student, frozen) == free
    assert not frozen.network.training
    with pytest.raises(StillhouseError, match="this teacher is several"):
        score(data, student, Ensemble({"a": model(3), "b": model(3)}))


def test_what_is_no_vector_is_told(data: Data) -> None:
    with pytest.raises(StillhouseError, match="4-D"):
        score(data, model(3), model(3), features="features.conv3")
