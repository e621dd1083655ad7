"""Corruptions by hand, the same for every arm; accuracy on what they leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from stillhouse.engine.contracts import Data, Facts
from stillhouse.errors import StillhouseError
from stillhouse.evaluation import robustness as corruptions
from stillhouse.evaluation.findings import Context
from stillhouse.evaluation.kinds import Robustness
from stillhouse.evaluation.robustness import CORRUPTIONS, robustness
from test_evaluation import LogitImages, arm


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


IMAGES = torch.rand(64, 3, 9, 7, generator=rng(1))


def test_noise_has_the_deviation_it_says():
    grey = torch.full((50, 1, 16, 16), 0.5)
    moved = corruptions.noise(grey, 0.1, rng()) - grey
    assert moved.std().item() == pytest.approx(0.1, rel=0.03)
    assert moved.mean().item() == pytest.approx(0, abs=0.003)
    assert corruptions.noise(IMAGES, 5.0, rng()).aminmax() == (0.0, 1.0)


def test_blur_is_scipys():
    for sigma in (0.4, 1.6):
        theirs = ndimage.gaussian_filter(
            IMAGES.double().numpy(),
            (0, 0, sigma, sigma),
            mode="nearest",
            radius=(0, 0, int(np.ceil(3 * sigma)), int(np.ceil(3 * sigma))),
        )
        np.testing.assert_allclose(corruptions.blur(IMAGES, sigma, rng()).numpy(), theirs, atol=1e-5)


def test_shift_moves_every_image_one_way_by_so_much():
    moved = corruptions.shift(IMAGES, 2, rng())
    ways = {"up": 0, "down": 0, "left": 0, "right": 0}
    for before, after in zip(IMAGES.numpy(), moved.numpy(), strict=True):
        for name, move in (("down", (0, 2, 0)), ("up", (0, -2, 0)), ("right", (0, 0, 2)), ("left", (0, 0, -2))):
            ways[name] += np.array_equal(ndimage.shift(before, move, order=0, cval=0.0), after)
    assert sum(ways.values()) == len(IMAGES)
    assert min(ways.values()) > 5


def test_occlusion_covers_a_square_of_that_side():
    covered = corruptions.occlusion(IMAGES, 4, rng()) == 0.5
    assert covered.all(1).sum((1, 2)).tolist() == [16] * len(IMAGES)
    rows, columns = covered.all(1).any(2).sum(1), covered.all(1).any(1).sum(1)
    assert rows.tolist() == columns.tolist() == [4] * len(IMAGES)
    assert len({tuple(image.nonzero()[0].tolist()) for image in covered.all(1)}) > 10  # not one place


def test_contrast_leaves_the_mean_and_takes_a_share_of_the_spread():
    paler = corruptions.contrast(IMAGES, 0.9, rng())
    torch.testing.assert_close(paler.mean((1, 2, 3)), IMAGES.mean((1, 2, 3)))
    torch.testing.assert_close(paler.std((1, 2, 3)), 0.1 * IMAGES.std((1, 2, 3)))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_strongest_changes_more_than_the_weakest_and_nothing_leaves_the_range(name):
    corruption = CORRUPTIONS[name]
    weak, *_, strong = corruption.strengths(8, 4)
    first, last = (corruption.apply(IMAGES, strength, rng()) for strength in (weak, strong))
    assert first.shape == last.shape == IMAGES.shape
    assert (first - IMAGES).abs().mean() < (last - IMAGES).abs().mean()
    assert 0 <= last.min() <= last.max() <= 1
    assert not last.equal(IMAGES)


def test_strengths_in_pixels_are_whole_and_none_is_nothing():
    assert CORRUPTIONS["shift"].strengths(8, 4) == [1, 2, 3, 4]
    assert CORRUPTIONS["shift"].strengths(4, 4) == [1, 2]
    assert CORRUPTIONS["noise"].strengths(8, 2) == [0.25, 0.5]


class Bright(nn.Module):
    """Calls an image 1 where its middle is brighter than a half."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        middle = image[:, 0, image.shape[2] // 2, image.shape[3] // 2] - 0.5
        return torch.stack([-middle, middle], 1)


class Squares(LogitImages):
    """Images [N, 1, 8, 8], bright or dark all over."""

    fingerprint = "squares"

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels


def squares(*arms, seed: int = 0) -> Context:
    labels = torch.arange(40) % 2
    images = torch.where(labels.bool(), 0.8, 0.3).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    source = Squares(images, labels)
    data = Data(source, source, source, Facts("classification", (1, 8, 8), 2))
    return Context(data, source, {a.name: a for a in arms}, seed=seed, device="cpu", batch_size=7)


def test_robust_accuracy_is_the_mean_over_kinds_and_strengths_and_starts_clean():
    student = arm("student", Bright())
    found = robustness(Robustness(corruptions=["blur", "noise"], levels=2), student, squares(student))
    blur, noise = found.figures
    assert blur["series"][""] == [1.0, 1.0, 1.0]  # what is one colour all over has nothing to blur
    assert noise["x"] == [0.0, 0.25, 0.5]
    clean, weak, strong = noise["series"][""]
    assert clean == 1.0
    assert strong < weak <= 1.0
    assert found.metrics["robust_accuracy"] == pytest.approx((1 + 1 + weak + strong) / 4)
    assert np.mean(found.per_example["robust_accuracy"]) == pytest.approx(found.metrics["robust_accuracy"])


def test_every_arm_sees_the_same_images_and_another_seed_gives_others():
    seen = []
    arms = [arm(name, Bright()) for name in ("student", "control")]
    for one in arms:
        one.model.network.register_forward_hook(lambda module, given, output: seen.append(given[0]))
    kind = Robustness(corruptions=["noise", "shift", "occlusion"], levels=1)
    shared = squares(*arms)
    for one in arms:
        robustness(kind, one, shared)
    half = len(seen) // 2
    assert all(a.equal(b) for a, b in zip(seen[:half], seen[half:], strict=True))
    robustness(kind, arms[0], squares(*arms, seed=1))
    assert not all(a.equal(b) for a, b in zip(seen[:half], seen[2 * half :], strict=True))
    looks = [x for x in seen[:half] if len(x) == 7]
    assert not looks[-1].equal(looks[-4])  # nor is one batch spoiled as another


def test_data_without_images_is_told_so():
    class Text(Squares):
        def fetch(self, indices, rng):
            return {
                "input_ids": self.labels[indices, None],
                "labels": self.labels[indices],
                "image": self.images[indices, :, 0, 0],
            }

    student = arm("student", nn.Flatten())
    shared = squares(student)
    shared.source = Text(torch.zeros(4, 2, 1, 1), torch.zeros(4, dtype=torch.long))
    with pytest.raises(StillhouseError, match="corrupts images, and this data has input_ids, labels"):
        robustness(Robustness(), student, shared)
