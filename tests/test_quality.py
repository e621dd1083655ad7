"""Marks for the quality of images: the data, the network of several opinions, correlations."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn

from stillhouse.engine.contracts import Data, Facts
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.evaluation.regression import correlation
from stillhouse.evaluation.regression_kinds import Correlation
from stillhouse.networks.task_kinds import Opinions
from stillhouse.sources.altered_kinds import Distorted
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.distorted import smoothed
from stillhouse.sources.kinds import Digits
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

PLAIN = Digits(shift=0)
ROWS = torch.arange(200)


def test_images_are_blurred_and_noised_as_their_marks_say() -> None:
    plain = PLAIN.build().test.fetch(ROWS, None)["image"]
    data = Distorted(of=PLAIN).build()
    batch = data.test.fetch(ROWS, None)
    blur, noise = data.test.blur[ROWS], data.test.noise[ROWS]  # type: ignore[attr-defined]
    torch.testing.assert_close(batch["labels"].squeeze(1), 1 - (blur + noise) / 2)
    still = noise < 0.05
    blurred = torch.lerp(plain, smoothed(plain), blur.view(-1, 1, 1, 1))
    assert (batch["image"] - blurred)[still].abs().max() < 0.1
    apart = (batch["image"] - blurred).square().mean((1, 2, 3))
    assert spearmanr(apart, noise)[0] > 0.9
    assert torch.equal(batch["image"], data.test.fetch(ROWS, None)["image"])
    assert torch.equal(data.test.fetch(ROWS[5:7], None)["image"], batch["image"][5:7])
    assert data.facts.task == "regression"
    assert data.facts.classes == 1


def test_only_training_marks_scatter() -> None:
    sure, one, many = (Distorted(of=PLAIN, opinions=n).build() for n in (0, 1, 16))
    rows = torch.arange(800)
    true = sure.train.fetch(rows, None)["labels"]
    assert float((one.train.fetch(rows, None)["labels"] - true).std()) == pytest.approx(0.2, abs=0.02)
    assert float((many.train.fetch(rows, None)["labels"] - true).std()) == pytest.approx(0.05, abs=0.005)
    assert torch.equal(one.test.fetch(ROWS, None)["labels"], sure.test.fetch(ROWS, None)["labels"])
    assert len({sure.train.fingerprint, one.train.fingerprint, one.test.fingerprint}) == 3


def test_smoothing_is_two_means_of_three_by_three() -> None:
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 81
    expected = torch.outer(torch.tensor([1.0, 2, 3, 2, 1]), torch.tensor([1.0, 2, 3, 2, 1]))
    torch.testing.assert_close(smoothed(image)[0, 0, 2:7, 2:7], expected)
    torch.testing.assert_close(smoothed(torch.full((1, 1, 8, 8), 0.4)), torch.full((1, 1, 8, 8), 0.4))


def test_the_mark_is_the_mean_of_the_opinions() -> None:
    torch.manual_seed(0)
    network = Opinions(width=4, opinions=3, features=5).build(Facts("regression", (1, 8, 8), 1))
    found = network(torch.rand(2, 1, 8, 8))
    assert found["opinions"].shape == (2, 3, 5)
    each = [network.marks[k](found["opinions"][:, k]) for k in range(3)]
    torch.testing.assert_close(found["logits"], (each[0] + each[1] + each[2]) / 3)
    assert not torch.allclose(found["opinions"][:, 0], found["opinions"][:, 1])


class Bright(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1).mean(1, keepdim=True).exp()


def test_correlations_are_those_of_scipy() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(30, 1, 4, 4, generator=rng)
    marks = images.flatten(1).mean(1, keepdim=True) + 0.05 * torch.randn(30, 1, generator=rng)
    source = ImageArray(images, marks, fingerprint="x")
    data = Data(source, source, source, Facts("regression", (1, 4, 4), 1))
    found = correlation(
        Correlation(), Arm("a", Model(Bright(), ImageView(Image()))), Context(data, source, {}, 0, "cpu", batch_size=8)
    ).metrics
    predicted = Bright()(images).flatten()
    assert found["srcc"] == pytest.approx(spearmanr(predicted, marks.flatten())[0], abs=1e-6)
    assert found["plcc"] == pytest.approx(pearsonr(predicted, marks.flatten())[0], abs=1e-5)
