"""Low resolutions, what enlarges them, a student between fidelity and realness, and the front that it traces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Facts
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.evaluation.restoration import Front, trade_off
from stillhouse.evaluation.task_kinds import TradeOff
from stillhouse.methods.fidelity_realness import FidelityRealness
from stillhouse.methods.multi_kinds import FidelityRealness as Kind
from stillhouse.methods.roles import Roles
from stillhouse.networks.super_resolver import Critic
from stillhouse.networks.task_kinds import NearestExample, SuperResolver
from stillhouse.sources.altered_kinds import LowResolution
from stillhouse.sources.kinds import Digits
from stillhouse.sources.low_resolution import clean
from stillhouse.teachers.ensemble import Ensemble
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

PLAIN = Digits(shift=0)
ROWS = torch.arange(32)
FACTS = Facts("restoration", (1, 4, 4), 10)


def model(network: nn.Module) -> Model:
    return Model(network, ImageView(Image()))


class Shade(nn.Module):
    """An image of one grey, whatever it is shown."""

    def __init__(self, grey: float) -> None:
        super().__init__()
        self.grey = grey

    def forward(self, image: Tensor) -> Tensor:
        return functional.interpolate(image, scale_factor=2) * 0 + self.grey


def roles(teacher: Ensemble | None, *, controlled: bool = True) -> Roles:
    torch.manual_seed(0)
    network = SuperResolver(hidden=[32], controlled=controlled).build(FACTS)
    return Roles(model(network), teacher, FACTS, LowResolution(of=PLAIN).build().train.fetch(ROWS[:4], None))


def batch() -> Batch:
    return LowResolution(of=PLAIN, noise=0.1).build().train.fetch(ROWS, None)


def test_a_low_resolution_is_the_mean_of_squares_with_the_same_noise_at_every_visit() -> None:
    images = PLAIN.build().test.fetch(ROWS, None)
    exact = LowResolution(of=PLAIN, noise=0).build().test.fetch(ROWS, None)
    assert exact["image"].shape == (32, 1, 4, 4)
    torch.testing.assert_close(exact["image"][5, 0, 1, 2], images["image"][5, 0, 2:4, 4:6].mean())
    assert torch.equal(exact["labels"], images["image"])
    assert torch.equal(exact["class"], images["labels"])
    data = LowResolution(of=PLAIN, noise=0.1).build()
    noisy, again = (data.test.fetch(rows, None)["image"] for rows in (ROWS, ROWS.flip(0)))
    assert torch.equal(noisy, again.flip(0))
    inside = (exact["image"] > 0.4) & (exact["image"] < 0.6)
    assert 0.07 < float((noisy - exact["image"])[inside].std()) < 0.13
    with pytest.raises(StillhouseError, match="squares of 3"):
        LowResolution(of=PLAIN, factor=3).build()


def test_the_true_images_are_a_classification_again() -> None:
    data = LowResolution(of=PLAIN).build()
    found, own = clean(data), PLAIN.build()
    assert found.facts.shape == own.facts.shape
    assert found.facts.task == "classification"
    assert torch.equal(found.test.fetch(ROWS, None)["image"], own.test.fetch(ROWS, None)["image"])
    with pytest.raises(StillhouseError, match="low-resolution"):
        clean(own)


def test_the_scalar_reaches_a_controlled_network_alone() -> None:
    seen = batch() | {"trade_off": torch.linspace(0, 1, 32)}
    torch.manual_seed(0)
    moved = model(SuperResolver(controlled=True).build(FACTS))
    given, plain = moved.signals(seen)["logits"], moved.signals(batch())["logits"]
    assert given.shape == (32, 1, 8, 8)
    assert torch.equal(given[0], plain[0])
    assert not torch.allclose(given[-1], plain[-1])


def test_the_nearest_example_is_never_the_input_itself() -> None:
    network = NearestExample().build(FACTS)
    given = batch()
    network.fit(given["image"], given["labels"], 0)
    own = network(given["image"])
    squares = (given["image"].flatten(1)[:, None] - given["image"].flatten(1)).square().sum(-1)
    expected = squares.fill_diagonal_(torch.inf).argmin(1)
    assert torch.equal(own, given["labels"][expected])
    assert torch.equal(network(given["image"] + 1e-3), given["labels"])


def test_a_critic_is_no_steeper_than_one() -> None:
    torch.manual_seed(0)
    critic = Critic(64, [32, 32])
    for _ in range(30):  # the power iteration of the normalisation
        critic(torch.rand(8, 1, 8, 8), torch.rand(8))
    critic.eval()
    a, b = torch.randn(2, 256, 1, 8, 8)
    slopes = (critic(a, torch.zeros(256)) - critic(b, torch.zeros(256))).abs() / (a - b).flatten(1).norm(dim=1)
    assert slopes.max() <= 1.01


def test_losses_are_those_of_the_formulas() -> None:
    teacher = Ensemble({"fidelity": model(Shade(0.25)), "realness": model(Shade(0.75))})
    method = FidelityRealness(Kind(weight=0.5), roles(teacher))
    assert [turn.player for turn in method.schedule()] == ["critic", "student"]
    assert method.critic is not None
    method.critic.module.eval()
    given = batch()
    y, t = method.restored(given, torch.Generator().manual_seed(1))
    f, r = method.targets(given)
    assert (f == 0.25).all()
    assert (r == 0.75).all()
    assert len(t.unique()) == len(t)
    told = method.update_student(given, torch.Generator().manual_seed(1))
    torch.testing.assert_close(told["fidelity"].values, (y - 0.25).square().flatten(1).mean(1))
    torch.testing.assert_close(told["realness"].values, -t * method.critic.module(y, t))
    assert told["realness"].weight == 0.5
    told = method.update_critic(given, torch.Generator().manual_seed(1))
    torch.testing.assert_close(told["own"].values, (1 + method.critic.module(y, t)).relu())
    torch.testing.assert_close(told["real"].values, (1 - method.critic.module(r, t)).relu())


def test_by_pixels_the_student_is_held_to_the_average_and_there_is_no_critic() -> None:
    teacher = Ensemble({"fidelity": model(Shade(0.25)), "realness": model(Shade(0.75))})
    method = FidelityRealness(Kind(realness_by="pixels"), roles(teacher))
    assert [turn.player for turn in method.schedule()] == ["student"]
    y, t = method.restored(batch(), torch.Generator().manual_seed(1))
    told = method.update_student(batch(), torch.Generator().manual_seed(1))
    expected = (y - 0.25 - 0.5 * t.view(-1, 1, 1, 1)).square().flatten(1).mean(1)
    torch.testing.assert_close(told["average"].values, expected)


def test_a_student_without_scalar_or_teacher_is_held_to_the_data() -> None:
    method = FidelityRealness(Kind(), roles(None, controlled=False))
    _, t = method.restored(batch(), torch.Generator())
    assert (t == 1).all()
    assert all(torch.equal(target, batch()["labels"]) for target in method.targets(batch()))


def test_the_scalar_moves_a_student_from_one_teacher_to_the_other() -> None:
    teacher = Ensemble({"fidelity": model(Shade(0.2)), "realness": model(Shade(0.6))})
    method = FidelityRealness(Kind(weight=0.1), roles(teacher))
    assert method.critic is not None
    optimizers = {
        "student": torch.optim.Adam(method.student.parameters(), 3e-3, betas=(0.5, 0.9)),
        "critic": torch.optim.Adam(method.critic.parameters(), 6e-3, betas=(0.5, 0.9)),
    }
    rng, given = torch.Generator().manual_seed(0), batch()
    for _ in range(300):
        for turn in method.schedule():
            optimizers[turn.player].zero_grad()
            losses = turn.losses(given, rng)
            torch.stack([loss.weight * loss.values.mean() for loss in losses.values()]).sum().backward()
            optimizers[turn.player].step()
    with torch.no_grad():
        low, high = (
            float(method.student.module.signals(given | {"trade_off": torch.full((32,), at)})["logits"].mean())
            for at in (0.0, 1.0)
        )
    assert abs(low - 0.2) < 0.1
    assert high > low + 0.15


def test_a_distance_is_read_off_the_front_at_given_decibels() -> None:
    front = Front(psnr=[20.0, 20.2, 19.0, 18.0], distance=[10.0, 8.0, 4.0, 3.0])
    assert front.distance_at(19.5) == pytest.approx(6.0)  # half-way from 20.0 (not 20.2) to 19.0
    assert front.distance_at(18.25) == pytest.approx(3.25)
    assert front.distance_at(21.0) == 10.0
    assert front.distance_at(17.0) == 3.0
    assert Front(psnr=[20.0, 19.5, 18.5, 18.0], distance=[9.0, 5.9, 3.6, 3.0]).ahead_of(front) == 0.5


class Blend(nn.Module):
    """An image of the scalar's grey."""

    controlled = True

    def forward(self, image: Tensor, trade_off: Tensor) -> Tensor:
        return functional.interpolate(image, scale_factor=2) * 0 + trade_off.view(-1, 1, 1, 1)


def test_the_front_is_that_of_averages_for_a_teacher_and_of_the_scalar_for_a_student() -> None:
    data = LowResolution(of=PLAIN).build()
    teacher = Arm("teacher", Ensemble({"fidelity": model(Shade(0.0)), "realness": model(Shade(1.0))}))
    student = Arm("student", model(Blend()))
    context = Context(data, data.test, {"teacher": teacher, "student": student}, 0, "cpu")
    kind = TradeOff(places=3, given_up=0.1)
    theirs, ours = (trade_off(kind, arm, context).metrics for arm in (teacher, student))
    assert ours == pytest.approx(theirs)  # both give one grey, from black to white
    images = PLAIN.build().test.fetch(torch.arange(len(data.test)), None)["image"].double()
    for name, grey in {"psnr_low": 0.0, "psnr_middle": 0.5, "psnr_high": 1.0}.items():
        errors = (images - grey).square().flatten(1).mean(1)
        assert ours[name] == pytest.approx(float((-10 * errors.log10()).mean()), abs=1e-4)
    with pytest.raises(StillhouseError, match="no scalar moves the arm 'still'"):
        trade_off(kind, Arm("still", model(Shade(0.5))), context)
    with pytest.raises(ValueError, match="one half"):
        TradeOff(places=4)
