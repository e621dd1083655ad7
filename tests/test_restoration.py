"""Sparse views: reconstructions, a network that sees the whole image, contrast in a band, the decibels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from stillhouse.engine.contracts import Data, Facts
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.evaluation.restoration import psnr, rows
from stillhouse.evaluation.task_kinds import PSNR
from stillhouse.networks.task_kinds import GlobalRestorer
from stillhouse.objectives.bands import band, band_contrast
from stillhouse.sources.altered_kinds import SparseViews
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.kinds import Digits
from stillhouse.sources.tomography import reconstructed
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

PLAIN = Digits(shift=0)
ROWS = torch.arange(64)


def test_more_views_come_nearer_to_the_image() -> None:
    images = PLAIN.build().test.fetch(ROWS, None)["image"]
    two, four, eight, many = (float((reconstructed(images, n) - images).square().mean()) for n in (2, 4, 8, 32))
    assert two > 1.5 * four > 2 * eight
    assert max(eight, many) < 0.1 * float(images.square().mean())  # what is left is the coarse grid's


def test_batches_hold_both_reconstructions_and_the_image() -> None:
    images = PLAIN.build().test.fetch(ROWS, None)["image"]
    data = SparseViews(of=PLAIN, views=3, more=6).build()
    batch = data.test.fetch(ROWS, None)
    torch.testing.assert_close(batch["image"], reconstructed(images, 3))
    torch.testing.assert_close(batch["second_image"], reconstructed(images, 6))
    assert torch.equal(batch["labels"], images)
    more = SparseViews(of=PLAIN, views=3, more=6, first="more").build()
    assert torch.equal(more.test.fetch(ROWS, None)["image"], batch["second_image"])
    assert more.train.fingerprint != data.train.fingerprint
    assert more.test.fingerprint == PLAIN.build().test.fingerprint


def test_every_pixel_of_the_representation_sees_every_pixel_of_the_image() -> None:
    torch.manual_seed(0)
    network = GlobalRestorer(width=4).build(Facts("restoration", (1, 8, 8), 1))
    image = torch.rand(1, 1, 8, 8, requires_grad=True)
    found = network(image)
    assert found["logits"].shape == image.shape
    (reach,) = torch.autograd.grad(found["embedding"][0, :, 0, 0].sum(), image)
    assert (reach != 0).all()


def test_a_band_keeps_its_waves_and_no_others() -> None:
    place = torch.arange(8)
    slow = torch.cos(2 * math.pi * place / 8).expand(1, 1, 8, 8)  # a quarter of the highest frequency
    fast = torch.cos(math.pi * place).expand(1, 1, 8, 8)
    torch.testing.assert_close(band(slow + fast + 3, 0.5, 1.0), fast, atol=1e-5, rtol=0)
    torch.testing.assert_close(band(slow + fast + 3, 0.1, 0.4), slow, atol=1e-5, rtol=0)
    torch.testing.assert_close(band(slow + fast + 3, 0.0, 1.0), slow + fast + 3, atol=1e-5, rtol=0)
    with pytest.raises(StillhouseError, match="no frequency"):
        band(slow, 0.3, 0.45)


def test_contrast_is_that_of_its_formula_in_double_precision() -> None:
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 3, 4, 4, generator=rng)
    ours, theirs = (band(x.double(), 0.4, 1.0).flatten(1) for x in (student, teacher))
    expected = []
    for i in range(5):
        scores = [float(torch.cosine_similarity(ours[i], theirs[j], dim=0)) / 0.2 for j in range(5)]
        expected.append(-math.log(math.exp(scores[i]) / sum(math.exp(s) for s in scores)))
    found = band_contrast(student, teacher, low=0.4, temperature=0.2)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    leaf = student.double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: band_contrast(x, teacher.double(), low=0.4), (leaf,))


class Dimmed(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image - 0.1


def test_decibels() -> None:
    images = torch.rand(10, 1, 4, 4) * 0.8 + 0.1
    source = ImageArray(images, images, fingerprint="x")
    data = Data(source, source, source, Facts("restoration", (1, 4, 4), 1))
    context = Context(data, source, {}, 0, "cpu", batch_size=4)
    assert psnr(PSNR(), Arm("a", Model(Dimmed(), ImageView(Image()))), context).metrics["psnr"] == pytest.approx(
        20, abs=1e-3
    )


def test_a_row_of_the_figure_is_an_example_with_small_images_enlarged() -> None:
    small, large = torch.tensor([0.2, 0.4]).view(2, 1, 1, 1), torch.full((2, 1, 2, 2), 3.0)
    figure = rows("shown", [small, large])
    assert (figure["width"], figure["height"], figure["channels"], figure["columns"]) == (2, 2, 1, 2)
    assert figure["pixels"] == [[51] * 4, [255] * 4, [102] * 4, [255] * 4]
