"""Images shown otherwise: what is turned, reordered or cut, and which splits stay as they are."""

from __future__ import annotations

import pytest
import torch

from stillhouse.engine.contracts import Source
from stillhouse.sources.altered_kinds import Halves, NoisyViews, Permuted, Rotated
from stillhouse.sources.kinds import Digits
from stillhouse.sources.shown import turned

PLAIN = Digits(shift=0)
ROWS = torch.arange(20)


def image(source: Source) -> torch.Tensor:
    return source.fetch(ROWS, None)["image"]


def test_quarter_turns_are_exact() -> None:
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(turned(images, 90.0), images.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    each = turned(images, torch.tensor([0.0, 180.0, 270.0]))
    torch.testing.assert_close(each[0], images[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(each[1], images[1].flip(1, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(each[2], images[2].rot90(3, (1, 2)), atol=1e-5, rtol=0)


def test_training_images_are_turned_and_the_test_stays() -> None:
    plain, data = PLAIN.build(), Rotated(of=PLAIN, degrees=180).build()
    torch.testing.assert_close(image(data.train), image(plain.train).flip(2, 3), atol=1e-5, rtol=0)
    assert torch.equal(image(data.test), image(plain.test))
    assert data.test.fingerprint == plain.test.fingerprint
    other = Rotated(of=PLAIN, degrees=9).build()
    assert len({data.train.fingerprint, plain.train.fingerprint, other.train.fingerprint}) == 3


def test_permuted_pixels_are_the_same_pixels_in_one_order() -> None:
    plain, shown = image(PLAIN.build().train), image(Permuted(of=PLAIN).build().train)
    assert not torch.equal(plain, shown)
    assert torch.equal(plain.flatten(1).sort(1).values, shown.flatten(1).sort(1).values)
    other = image(Permuted(of=PLAIN, seed=1).build().train)
    assert not torch.equal(other, shown)
    order = [int((plain.flatten(1) == shown.flatten(1)[:, [p]]).all(0).nonzero()[0]) for p in (20, 27, 35)]
    assert torch.equal(shown.flatten(1)[:, [20, 27, 35]], plain.flatten(1)[:, order])


def test_halves_add_up_to_the_whole_in_every_split() -> None:
    for split in ("train", "validation", "test"):
        batch = getattr(Halves(of=PLAIN).build(), split).fetch(ROWS, None)
        assert torch.equal(batch["image"] + batch["second_image"], batch["whole_image"])
        assert batch["image"][..., 4:].sum() == 0
        assert batch["second_image"][..., :4].sum() == 0
        assert torch.equal(batch["whole_image"], image(getattr(PLAIN.build(), split)))
    first = Halves(of=PLAIN, first="right").build().test.fetch(ROWS, None)
    assert first["image"][..., :4].sum() == 0
    assert torch.equal(Halves(of=PLAIN, first="both").build().test.fetch(ROWS, None)["image"], first["whole_image"])


def test_noisy_views_have_noise_of_their_own_that_stays() -> None:
    plain, data = PLAIN.build(), NoisyViews(of=PLAIN, views=16, noise=0.5).build()
    noises = []
    for split in ("train", "validation", "test"):
        source = getattr(data, split)
        rows = torch.arange(len(source))
        batch, clean = source.fetch(rows, None), getattr(plain, split).fetch(rows, None)["image"]
        assert torch.equal(source.fetch(rows[7:9], None)["image"], batch["image"][7:9])
        noise = [batch[name] - clean for name in ("image", "second_image", "whole_image")]
        spreads = [one.std().item() for one in noise]
        assert spreads[:2] == pytest.approx([0.5, 0.5], rel=0.02)
        assert spreads[2] == pytest.approx(0.5 / 4, rel=0.02)  # the mean of 16 views
        assert abs((noise[0] * noise[1]).mean().item()) < 0.01
        noises.append(noise[0][:20])
    assert not torch.equal(noises[0], noises[1])
    assert data.test.fingerprint == plain.test.fingerprint != data.train.fingerprint
