"""A model that learns from its own pairs: what stands side by side, what is kept, what is fitted, what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Data, Facts
from stillhouse.errors import StillhouseError
from stillhouse.evaluation import pairs as measurement
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.evaluation.generation_kinds import Reference
from stillhouse.methods import own_pairs
from stillhouse.methods.diffusion_kinds import OwnPairs as Kind
from stillhouse.methods.own_pairs import OwnPairs
from stillhouse.methods.roles import Roles
from stillhouse.networks import judge
from stillhouse.networks.kinds import Denoiser, Heun, PairDenoiser
from stillhouse.sources.altered_kinds import Panels
from stillhouse.sources.kinds import Digits
from stillhouse.sources.made_kinds import Glyphs
from stillhouse.students.load import load_student
from stillhouse.students.save import save_student
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

SINGLE = Glyphs(
    characters="ABC", fonts=["DejaVuSans", "cmtt10"], size=8, shift=0, noise=0, train=60, validation=24, test=24
)
FACTS = Facts("classification", (1, 4, 8), 9)
PLAIN = PairDenoiser(width=16, blocks=2, sigma_data=0.5)
VIEW = ImageView(Image(mean=(0.5,), std=(0.5,)))
QUICK = Heun(steps=2, sigma_max=5)


@pytest.fixture(scope="module")
def data() -> Data:
    return Panels(of=SINGLE, consistent=0.5).build()


def whole(source: Any) -> Batch:
    return source.fetch(torch.arange(len(source)), None)


def network(scale: float = 0.3, facts: Facts = FACTS) -> Any:
    """With weights that answer to everything they are told."""
    torch.manual_seed(0)
    found = PLAIN.build(facts)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter += scale * torch.randn(parameter.shape)
    return found


def made(data: Data, **options: Any) -> OwnPairs:
    torch.manual_seed(3)
    model = network(facts=data.facts)
    roles = Roles(
        Model(model, VIEW),
        Frozen(Model(network(facts=data.facts), VIEW)),
        data.facts,
        batch(data, 4),
        source=data.train,
    )
    return OwnPairs(Kind(sampler=QUICK, **options), roles)


def batch(data: Data, size: int) -> Batch:
    return data.train.fetch(torch.arange(size), None)


def test_images_of_two_classes_stand_side_by_side(data: Data) -> None:
    single = SINGLE.build()
    assert data.facts.shape == (1, 8, 16)
    assert data.facts.classes == 9
    assert data.facts.names[5] == "B C"
    for name in ("train", "validation", "test"):
        alone, found = whole(getattr(single, name)), whole(getattr(data, name))
        first, second = found["image"].chunk(2, -1)
        assert torch.equal(first, alone["image"])
        partners = [int((alone["image"] == one).flatten(1).all(1).nonzero()[0]) for one in second]
        assert torch.equal(found["labels"], 3 * alone["labels"] + alone["labels"][partners])
        assert (alone["labels"] != alone["labels"][partners]).all()
        assert torch.equal(found["domain"], alone["domain"])


@pytest.mark.parametrize(("consistent", "low", "high"), [(0.0, 0.3, 0.7), (0.5, 0.6, 0.9), (1.0, 1.0, 1.0)])
def test_a_share_of_the_pairs_is_of_one_domain_on_purpose(consistent: float, low: float, high: float) -> None:
    alone = whole(SINGLE.build().train)
    found = whole(Panels(of=SINGLE, consistent=consistent).build().train)
    second = found["image"].chunk(2, -1)[1]
    partners = [int((alone["image"] == one).flatten(1).all(1).nonzero()[0]) for one in second]
    assert low <= (alone["domain"] == alone["domain"][partners]).float().mean() <= high


def test_pairs_are_drawn_once_by_their_seed(data: Data) -> None:
    again, other = (Panels(of=SINGLE, consistent=0.5, seed=seed).build() for seed in (0, 1))
    assert torch.equal(whole(again.train)["image"], whole(data.train)["image"])
    assert not torch.equal(whole(other.train)["image"], whole(data.train)["image"])
    assert again.train.fingerprint == data.train.fingerprint != other.train.fingerprint


def test_images_without_a_domain_make_no_pairs() -> None:
    with pytest.raises(StillhouseError, match="needs to know each image's domain"):
        Panels(of=Digits(shift=0)).build()


def test_a_reference_changes_nothing_before_it_was_trained() -> None:
    torch.manual_seed(0)
    model = PLAIN.build(FACTS)
    torch.nn.init.normal_(model.leave.weight)
    torch.nn.init.zeros_(model.first.weight)
    x, sigma, labels = torch.randn(5, 1, 4, 8), torch.rand(5) + 0.1, torch.arange(5)
    shown = model(x, sigma, labels, reference=torch.randn(5, 1, 4, 4))
    assert torch.equal(shown, model(x, sigma, labels))


def test_the_class_of_an_image_that_is_shown_is_not_told() -> None:
    model = network()
    x, sigma, reference = torch.randn(3, 1, 4, 8), torch.rand(3) + 0.1, torch.randn(3, 1, 4, 4)
    one, other = torch.tensor([1, 2, 0]), torch.tensor([4, 8, 3])  # other first images, the same second ones
    assert torch.equal(model(x, sigma, one, reference), model(x, sigma, other, reference))
    assert not torch.allclose(model(x, sigma, one), model(x, sigma, other))
    assert not torch.allclose(model(x, sigma, one, reference), model(x, sigma, one, -reference))
    assert not torch.allclose(model(x, sigma, one, reference), model(x, sigma, torch.tensor([2, 1, 1]), reference))


@pytest.mark.parametrize("facts", [Facts("classification", (1, 4, 7), 9), Facts("classification", (1, 4, 8), 8)])
def test_a_network_of_pairs_refuses_what_is_no_pair(facts: Facts) -> None:
    with pytest.raises(StillhouseError, match="use data of kind 'panels'"):
        PLAIN.build(facts)


def test_a_sampler_shows_the_reference_at_every_call() -> None:
    seen: list[Tensor] = []

    def denoiser(x: Tensor, sigma: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
        seen.append(reference)
        return x / 2

    reference = torch.randn(3, 2)
    sample = QUICK.build(denoiser)
    sample(torch.randn(3, 4), torch.zeros(3, dtype=torch.long), reference=reference)
    assert len(seen) == sample.calls == 3
    assert all(one is reference for one in seen)


def coded(images: Tensor, *, faces: list[int]) -> Tensor:
    """The images with the domain of each half in a corner pixel: 1 or 0."""
    images = images.clone()
    first, second = images.chunk(2, -1)
    first[:, 0, 0, 0] = torch.tensor([float(face // 10) for face in faces])
    second[:, 0, 0, 0] = torch.tensor([float(face % 10) for face in faces])
    return images


class Reads:
    """An expert for such images: the class is told by the next pixel."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self.half = options["half"]

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images[:, 0, 0, 1].round().long(), images[:, 0, 0, 0].round().long()


FACES = [0, 1, 10, 11, 11, 1]


def test_exactly_those_pairs_are_kept_in_which_both_images_are_of_one_domain(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_pairs, "Expert", Reads)
    images = coded(torch.rand(6, 1, 8, 16), faces=FACES)
    for curated, rows in ((True, [0, 3, 4]), (False, range(6))):
        method = made(data, pairs=6, curated=curated)
        monkeypatch.setattr(method, "drawn", lambda: {"image": images, "labels": torch.arange(6)})
        (turn,) = method.schedule()
        assert turn.player == "student"
        assert method.pairs["labels"].tolist() == list(rows)
        assert torch.equal(method.pairs["image"], images[list(rows)])
        assert method.told() == {"pairs_kept": len(rows) / 6}
    method = made(data, pairs=2)
    monkeypatch.setattr(method, "drawn", lambda: {"image": images[1:3], "labels": torch.arange(2)})
    with pytest.raises(StillhouseError, match="no pair of one domain among 2"):
        list(method.schedule())


def test_both_images_are_fitted_beside_the_first_one_as_it_is(data: Data) -> None:
    method = made(data, pairs=8, log_mean=-0.5, log_std=0.7)
    method.pairs = {"image": torch.rand(8, 1, 8, 16), "labels": torch.tensor([1, 2, 3, 5, 6, 7, 1, 2])}
    losses = method.update_student(batch(data, 5), torch.Generator().manual_seed(5))
    rng = torch.Generator().manual_seed(5)
    rows = torch.randint(8, (5,), generator=rng)
    x = method.pairs["image"][rows] * 2 - 1
    sigma = (-0.5 + 0.7 * torch.randn(5, generator=rng)).exp()
    x_t = x + sigma.view(-1, 1, 1, 1) * torch.randn(x.shape, generator=rng)
    own = method.student.module.network(x_t, sigma, method.pairs["labels"][rows], x[..., :8])
    scale = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    torch.testing.assert_close(losses["denoising"].values, scale * (own - x).square().mean((1, 2, 3)))


def test_pairs_are_the_teachers_samples_and_depend_on_the_seed_alone(data: Data) -> None:
    method, again = made(data, pairs=20), made(data, pairs=20)
    drawn = method.drawn()
    assert drawn["image"].shape == (20, 1, 8, 16)
    assert torch.equal(drawn["image"], again.drawn()["image"])
    assert set(drawn["labels"].tolist()) <= set(whole(data.train)["labels"].tolist())
    noise = torch.randn(20, 1, 8, 16, generator=torch.Generator().manual_seed(method.seed))
    expected = VIEW.image(QUICK.build(method.teacher)(noise, drawn["labels"]))
    torch.testing.assert_close(drawn["image"], expected)
    torch.manual_seed(4)
    other = OwnPairs(method.kind, method.roles)
    assert not torch.equal(other.drawn()["image"], drawn["image"])


def test_a_method_that_goes_on_has_its_pairs_and_draws_none(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    method, after = made(data, pairs=6, curated=False), made(data, pairs=6, curated=False)
    list(method.schedule())
    after.load_state_dict(method.state_dict())
    monkeypatch.setattr(after, "drawn", lambda: pytest.fail("the pairs are there"))
    list(after.schedule())
    assert torch.equal(after.pairs["image"], method.pairs["image"])
    assert after.told() == method.told()


def test_other_networks_are_refused(data: Data) -> None:
    plain = Denoiser(width=8).build(data.facts)
    roles = Roles(Model(plain, VIEW), Frozen(Model(plain, VIEW)), data.facts, batch(data, 4), source=data.train)
    with pytest.raises(StillhouseError, match="choose network: pair-denoiser"):
        OwnPairs(Kind(), roles)


def test_experts_of_two_halves_learn_class_and_domain_from_images_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judge, "EXPERT_STEPS", 150)
    data = Panels(of=SINGLE.model_copy(update={"train": 400, "distortion": 0.1})).build()
    seen: list[Tensor] = []
    fetch = data.train.fetch
    monkeypatch.setattr(data.train, "fetch", lambda rows, rng: (seen.append(rows), fetch(rows, rng))[1])
    test = whole(data.test)
    for half in (0, 1):
        classes, domain = judge.Expert(data.train, data.facts, half=half, device="cpu")(test["image"].chunk(2, -1)[0])
        assert (classes == test["labels"] // 3).float().mean() > 0.9
        assert (domain == test["domain"]).float().mean() > 0.9
    assert torch.equal(torch.cat(seen).sort().values, torch.arange(400))


class Four:
    """Four real pairs, whose first images are of domains 0, 1, 1, 0, asked for with classes 1, 0, 1, 0."""

    fingerprint = "four"

    def __len__(self) -> int:
        return 4

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        images = coded(torch.zeros(4, 1, 4, 8), faces=[0, 10, 10, 0])
        fields = {"image": images, "labels": torch.tensor([7, 3, 4, 6]), "domain": torch.tensor([0, 1, 1, 0])}
        return {name: value[indices] for name, value in fields.items()}


class Draws:
    """Beside a reference: the right domain three times of four, the right class twice; without one, one pair alike."""

    calls = 1

    def __call__(self, noise: Tensor, labels: Tensor, rng: torch.Generator, reference: Tensor | None = None) -> Tensor:
        if reference is None:
            return coded(torch.zeros_like(noise), faces=[1, 11, 10, 1])
        pair = torch.cat([reference, torch.zeros_like(reference)], -1)
        pair[:, 0, 0, 4] = torch.tensor([0.0, 1.0, 1.0, 1.0])
        pair[:, 0, 0, 5] = torch.tensor([1.0, 0.0, 0.0, 1.0])
        return pair


def test_what_is_drawn_beside_a_reference_is_held_against_it_and_against_what_was_asked(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement, "Expert", Reads)
    context = Context(data, Four(), {}, seed=0, device="cpu")
    arm = Arm("student", Model(network(), ImageView(Image())), Draws())
    found = measurement.reference(Reference(), arm, context)
    assert found.per_example == {
        "identity": [1.0, 1.0, 1.0, 0.0], "context": [1.0, 1.0, 0.0, 0.0], "consistency": [0.0, 1.0, 0.0, 0.0],
    }  # fmt: skip
    assert found.metrics == {"identity": 0.75, "context": 0.5, "consistency": 0.25}
    (own,) = context.memo.values()
    assert own.half == 1  # the judge of the training has the other half


def test_a_model_that_cannot_be_shown_a_reference_is_not_measured(data: Data) -> None:
    plain = Model(Denoiser(width=8).build(FACTS), ImageView(Image()))
    context = Context(data, data.validation, {}, seed=0, device="cpu")
    with pytest.raises(StillhouseError, match="network: pair-denoiser"):
        measurement.reference(Reference(), Arm("student", plain, QUICK.build(plain)), context)


def test_a_saved_student_draws_what_it_drew(tmp_path: Path) -> None:
    model = network()
    save_student(model, PLAIN, FACTS, tmp_path / "student", view=Image(mean=(0.5,), std=(0.5,)), sampler=QUICK)
    loaded = load_student(tmp_path)
    noise, labels, reference = torch.randn(3, 1, 4, 8), torch.arange(3), torch.randn(3, 1, 4, 4)
    with torch.no_grad():
        drawn, again = (QUICK.build(one)(noise, labels, reference=reference) for one in (model, loaded))
    assert torch.equal(drawn, again)
    assert type(loaded.view) is ImageView
