"""Distribution matching on Gaussians, where generator, critic and teacher are exact, and its players' turns."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Batch, Facts, Method, Stage
from stillhouse.engine.events import Events
from stillhouse.engine.folder import RunFolder
from stillhouse.engine.loop import Loop
from stillhouse.engine.process import Process
from stillhouse.engine.settings import Adam, PlayerSettings, Train
from stillhouse.errors import StillhouseError
from stillhouse.methods.denoise import Denoise
from stillhouse.methods.dmd import DMD
from stillhouse.methods.kinds import DMD as DMDKind
from stillhouse.methods.kinds import Denoise as DenoiseKind
from stillhouse.methods.roles import Roles
from stillhouse.networks.kinds import Heun, OneStep
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts(task="classification", shape=(1, 1, 2), classes=2)
MEANS, SPREADS = [[1.0, -1.0], [-0.5, 0.5]], [[0.5, 0.2], [0.3, 0.8]]
"""Of the teacher's two classes, by value."""


class GaussianDenoiser(nn.Module):
    """The optimal denoiser of one Gaussian a class, with its means and spreads to learn."""

    sigma_data = 0.7
    shape = FACTS.shape

    def __init__(self, means: list[list[float]], spreads: list[list[float]]) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.tensor(means))
        self.logs = nn.Parameter(torch.tensor(spreads).log())

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        mean, variance = self.means[labels], (2 * self.logs[labels]).exp()
        share = variance / (variance + sigma[:, None] ** 2)
        return (mean + share * (x.flatten(1) - mean)).view_as(x)


class Source:
    """Images drawn from the teacher's Gaussians, moved from [-1, 1] to where the view takes them from."""

    fingerprint = "gaussians"

    def __init__(self, count: int = 512) -> None:
        rng = torch.Generator().manual_seed(0)
        self.labels = torch.arange(count) % 2
        eps = torch.randn(count, 2, generator=rng)
        shown = torch.tensor(MEANS)[self.labels] + torch.tensor(SPREADS)[self.labels] * eps
        self.images = (shown * 0.5 + 0.5).view(-1, 1, 1, 2)

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        return {"index": indices, "image": self.images[indices], "labels": self.labels[indices]}


def model(network: nn.Module) -> Model:
    return Model(network, ImageView(Image(mean=(0.5,), std=(0.5,))))


def teacher() -> Frozen:
    return Frozen(model(GaussianDenoiser(MEANS, SPREADS)))


def student() -> Model:
    return model(GaussianDenoiser([[0.0, 0.0], [0.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]]))


def roles(sampler: object = None, by: object = "teacher") -> Roles:
    own = student()
    built = (sampler or OneStep(sigma=2.0)).build(own)  # type: ignore[attr-defined]
    return Roles(own, teacher() if by == "teacher" else by, FACTS, Source().fetch(torch.arange(4), None), built)


def train(method: Method, folder: Path, **settings: object) -> None:
    settings = {"batch_size": 256, "schedule": "cosine", "log_every": 1000} | settings
    with RunFolder(folder) as opened:
        stage = Stage("student", method, Source(), Train(**settings))  # type: ignore[arg-type]
        Loop(stage, process=Process("cpu"), folder=opened, events=Events(), seed=100).run()


def samples(method: DMD, label: int, count: int = 20_000) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        noise = torch.randn(count, *FACTS.shape, generator=rng)
        return method.sample(noise, torch.full((count,), label), rng).flatten(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> DMD:
    method = DMD(DMDKind(critic_updates=2, sigma_min=0.05, sigma_max=5.0), roles())
    fast = PlayerSettings(optimizer=Adam(lr=0.06, betas=(0.5, 0.99)))
    optimizer = Adam(lr=0.02, betas=(0.5, 0.99))
    train(
        method, tmp_path_factory.mktemp("dmd"), steps=400, batch_size=128, optimizer=optimizer, players={"critic": fast}
    )
    return method


@pytest.mark.parametrize("label", [0, 1])
def test_the_generator_learns_the_teachers_distribution(trained: DMD, label: int):
    made = samples(trained, label)
    assert made.mean(0).tolist() == pytest.approx(MEANS[label], abs=0.05)
    assert made.std(0).tolist() == pytest.approx(SPREADS[label], rel=0.1)


def test_the_critic_knows_the_generators_distribution(trained: DMD):
    network = trained.critic.module.network
    made = samples(trained, 0)
    assert network.means[0].tolist() == pytest.approx(made.mean(0).tolist(), abs=0.1)
    assert network.logs[0].exp().tolist() == pytest.approx(made.std(0).tolist(), rel=0.2)


def test_a_step_is_the_critics_turns_and_then_one_of_the_students():
    method = DMD(DMDKind(critic_updates=3), roles())
    assert [turn.player for turn in method.schedule()] == ["critic", "critic", "critic", "student"]
    assert method.players().keys() == {"student", "critic"}


@pytest.mark.parametrize("player", ["critic", "student"])
def test_a_turn_leaves_gradients_in_its_own_player_alone(player: str):
    """Without the engine, which turns the others' gradients off."""
    method = DMD(DMDKind(), roles())
    batch, rng = Source().fetch(torch.arange(32), None), torch.Generator().manual_seed(0)
    turn = next(t for t in method.schedule() if t.player == player)
    if player == "student":  # at the start critic and teacher agree, and there is nothing to learn
        with torch.no_grad():
            method.critic.module.network.means.add_(0.3)
    sum(loss.values.mean() for loss in turn.losses(batch, rng).values()).backward()  # type: ignore[union-attr]
    found = {name: [p.grad for p in of.parameters()] for name, of in method.players().items()}
    found["teacher"] = [p.grad for p in method.teacher.parameters()]
    own = found.pop(player)
    assert all(grad is not None and grad.any() for grad in own)
    assert all(grad is None for others in found.values() for grad in others)


def test_each_turn_changes_only_its_player(tmp_path: Path):
    class Watched(DMD):
        """Keeps all weights as they are before each turn."""

        seen: list[tuple[str, dict[str, dict[str, Tensor]]]]

        def schedule(self):
            for turn in super().schedule():
                self.seen.append((turn.player, weights(self)))
                yield turn

    def weights(method: DMD) -> dict[str, dict[str, Tensor]]:
        everyone = {name: player.module for name, player in method.players().items()} | {"teacher": method.teacher}
        return {name: copy.deepcopy(module.state_dict()) for name, module in everyone.items()}

    method = Watched(DMDKind(critic_updates=2), roles())
    method.seen = []
    train(method, tmp_path, steps=2, optimizer=Adam(lr=0.01))
    whole = method.seen[-6:]  # the engine also asks for the schedule without taking its turns
    assert [name for name, _ in whole] == ["critic", "critic", "student"] * 2
    for (player, before), (_, after) in zip(whole, [*whole[1:], ("", weights(method))], strict=True):
        changed = {
            name for name in before if any(not torch.equal(before[name][k], after[name][k]) for k in before[name])
        }
        assert changed == {player}


def test_the_critic_starts_as_a_copy_of_the_teacher():
    method = DMD(DMDKind(), roles())
    own, theirs = method.critic.module.network, method.teacher.network
    assert torch.equal(own.means, theirs.means)
    assert own.means.data_ptr() != theirs.means.data_ptr()
    assert own.means.requires_grad
    assert not theirs.means.requires_grad


def test_noise_levels_stay_in_their_range():
    method = DMD(DMDKind(sigma_min=0.1, sigma_max=2.0), roles())
    sigma = method.sigma(torch.zeros(1000, 1, 1, 2), torch.Generator().manual_seed(0))
    assert sigma.shape == (1000,)
    assert 0.1 <= sigma.min() < 0.11
    assert 1.9 < sigma.max() <= 2.0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"by": None}, "needs a teacher"),
        ({"by": Source()}, "not a store alone"),
        ({"sampler": Heun(steps=3)}, "one-step"),
    ],
)
def test_what_cannot_be_distilled_is_told(given: dict, told: str):
    with pytest.raises(StillhouseError, match=told):
        DMD(DMDKind(), roles(**given))


def test_a_denoiser_learns_the_data_as_the_view_shows_it(tmp_path: Path):
    own = student()
    method = Denoise(DenoiseKind(), Roles(own, None, FACTS, Source().fetch(torch.arange(4), None)))
    train(method, tmp_path, steps=400, optimizer=Adam(lr=0.05))
    data = Source()
    for label in (0, 1):
        shown = 2 * data.images[data.labels == label].flatten(1) - 1
        assert own.network.means[label].tolist() == pytest.approx(shown.mean(0).tolist(), abs=0.08)
        assert own.network.logs[label].exp().tolist() == pytest.approx(shown.std(0).tolist(), rel=0.15)


def test_only_denoisers_learn_to_denoise():
    with pytest.raises(StillhouseError, match="Linear is none"):
        Denoise(DenoiseKind(), Roles(model(nn.Linear(2, 2)), None, FACTS, {}))
