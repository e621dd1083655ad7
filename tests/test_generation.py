"""The Fréchet distance against closed forms, and what is told of a generator."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

from stillhouse.errors import StillhouseError
from stillhouse.evaluation import generation
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.evaluation.generation import frechet_distance
from stillhouse.evaluation.generation_kinds import Frechet, SamplingCost
from stillhouse.sources.kinds import Digits
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model


def rows(count: int, width: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_distance_between_known_gaussians():
    """Features with exactly these means and standard deviations: (3^2 + 4^2) + ((1 - 3)^2 + (2 - 0.5)^2)."""
    unit = rows(50, 2, seed=0)
    unit = unit - unit.mean(0)
    unit = unit @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(unit.T))).T  # mean 0, covariance 1, exactly
    a = unit * torch.tensor([1.0, 2.0], dtype=torch.float64)
    b = unit * torch.tensor([3.0, 0.5], dtype=torch.float64) + torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert frechet_distance(a, b) == pytest.approx(25 + 4 + 2.25)


def test_distance_is_that_of_the_matrix_root():
    a, b = rows(40, 5, seed=0), rows(60, 5, seed=1) @ rows(5, 5, seed=2) + 0.3
    s, t = np.cov(a.numpy().T), np.cov(b.numpy().T)
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum().item()
    expected = apart + np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_distance_of_a_set_from_itself_is_zero_also_where_a_feature_never_changes():
    a = torch.cat([rows(30, 3, seed=0), torch.zeros(30, 2, dtype=torch.float64)], 1)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-7)


class Memory(nn.Module):
    """Gives back the training images of a class, with noise of a given size: a generator of known quality."""

    def __init__(self, images: Tensor, labels: Tensor, view: ImageView, blur: float) -> None:
        super().__init__()
        self.shape = tuple(images.shape[1:])
        self.by_class = [(images[labels == c] - 0.5) / 0.5 for c in range(10)]
        assert view.mean.item() == view.std.item() == 0.5
        self.blur = blur

    def draw(self, noise: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        chosen = [of[torch.randint(len(of), (), generator=rng)] for of in (self.by_class[c] for c in labels.tolist())]
        return torch.stack(chosen) + self.blur * noise


class Draws:
    calls = 1

    def __init__(self, network: Memory) -> None:
        self.network = network

    def __call__(self, noise: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        return self.network.draw(noise, labels, rng)


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    patch = pytest.MonkeyPatch()
    patch.setattr(generation, "JUDGE_STEPS", 150)
    data = Digits(shift=0).build()
    yield Context(data, data.validation, {}, seed=100, device="cpu")
    patch.undo()


def arm(context: Context, blur: float, name: str = "student") -> Arm:
    train = context.data.train.fetch(torch.arange(len(context.data.train)), None)
    view = ImageView(Image(mean=(0.5,), std=(0.5,)))
    network = Memory(train["image"], train["labels"], view, blur)
    return Arm(name, Model(network, view), Draws(network))


def test_worse_images_are_farther_away(context: Context):
    kind = Frechet(samples=1000)
    clean, noisy, noise = (generation.frechet(kind, arm(context, blur), context) for blur in (0.0, 0.3, 3.0))
    assert clean.metrics["frechet"] < noisy.metrics["frechet"] < noise.metrics["frechet"]
    assert clean.metrics["asked_class"] > 0.9
    assert noise.metrics["asked_class"] < 0.5
    for found in (clean, noisy, noise):
        low, middle, high = (found.metrics[name] for name in ("frechet_low", "frechet", "frechet_high"))
        assert low < middle < high


def test_a_generator_of_the_training_images_is_near_the_floor(context: Context):
    found = generation.frechet(Frechet(samples=4000), arm(context, 0.0), context)
    (table,) = [figure for figure in found.figures if figure["kind"] == "table"]
    floor = dict(zip(table["columns"], table["rows"][0], strict=True))["floor"]
    assert floor > 0
    assert found.metrics["frechet"] == pytest.approx(floor, rel=0.35)


def test_the_judge_is_trained_once_and_the_same_for_every_seed(context: Context):
    generation.frechet(Frechet(samples=100), arm(context, 0.0), context)
    (kept,) = context.memo.values()
    other = Context(context.data, context.data.validation, {}, seed=101, device="cpu")
    torch.manual_seed(5)
    generation.frechet(Frechet(samples=100), arm(other, 0.0), other)
    (again,) = other.memo.values()
    assert all(torch.equal(a, b) for a, b in zip(kept.network.parameters(), again.network.parameters(), strict=True))


def test_the_same_seed_gives_the_same_numbers(context: Context):
    twice = [generation.frechet(Frechet(samples=200), arm(context, 0.1), context).metrics for _ in range(2)]
    assert twice[0] == twice[1]


def test_the_sheet_holds_every_class_in_columns(context: Context):
    found = generation.frechet(Frechet(samples=100), arm(context, 0.0), context)
    (sheet,) = [figure for figure in found.figures if figure["kind"] == "images"]
    assert sheet["columns"] == 10
    assert sheet["labels"][:11] == [*"0123456789", "0"]
    assert {len(pixels) for pixels in sheet["pixels"]} == {64}
    assert max(map(max, sheet["pixels"])) > 200
    assert min(map(min, sheet["pixels"])) == 0


def test_sampling_cost_counts_calls(context: Context):
    found = generation.sampling_cost(SamplingCost(batch_size=8), arm(context, 0.0), context)
    assert found.metrics["network_calls"] == 1
    assert found.metrics["ms_per_image"] > 0


@pytest.mark.parametrize("metric", ["frechet", "sampling_cost"])
def test_a_classifier_cannot_sample(context: Context, metric: str):
    classifier = Arm("student", Model(nn.Linear(2, 2), ImageView(Image())))
    kind = Frechet() if metric == "frechet" else SamplingCost()
    with pytest.raises(StillhouseError, match="student' is not one"):
        getattr(generation, metric)(kind, classifier, context)
