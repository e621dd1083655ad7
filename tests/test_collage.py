"""Several images in one: which stands where, which classes are told, and which splits they come from."""

from __future__ import annotations

import pytest
import torch

from stillhouse.errors import StillhouseError
from stillhouse.sources.altered_kinds import Collage, Fewer, LowResolution, TwoViews
from stillhouse.sources.encoder_kinds import PythonNames
from stillhouse.sources.kinds import Digits

PLAIN = Digits(shift=0)


def squares() -> Collage:
    return Collage(of=PLAIN, side=3, train=60, validation=20, test=30)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_square_holds_images_of_its_split_and_tells_their_classes(split: str) -> None:
    origin, source = getattr(PLAIN.build(), split), getattr(squares().build(), split)
    known = origin.fetch(torch.arange(len(origin)), None)
    batch = source.fetch(torch.tensor([4, 0, 7]), None)
    assert batch["index"].tolist() == [4, 0, 7]
    assert batch["image"].shape == (3, 1, 24, 24)
    for image, labels in zip(batch["image"], batch["labels"], strict=True):
        cells = [image[:, top : top + 8, left : left + 8] for top in (0, 8, 16) for left in (0, 8, 16)]
        places = [(known["image"] == cell).flatten(1).all(1).nonzero().flatten() for cell in cells]
        assert all(len(place) for place in places)
        classes = {int(known["labels"][place[0]]) for place in places}
        assert labels.nonzero().flatten().tolist() == sorted(classes)
        assert labels.max() == 1


def test_images_stand_row_by_row() -> None:
    origin, source = PLAIN.build().train, squares().build().train
    rows = source.squares[5, 0, 2:]
    image = source.fetch(torch.tensor([5]), None)["image"]
    upper_right = origin.fetch(rows, None)["image"]
    assert torch.equal(image[..., :8, 16:], upper_right)


def test_each_image_of_a_square_is_augmented_on_its_own() -> None:
    moved = Collage(of=Digits(shift=1), train=40).build().train
    rows = torch.arange(40)
    plain, other = moved.fetch(rows, None), moved.fetch(rows, torch.Generator().manual_seed(0))
    same = [
        (plain["image"][..., top : top + 8, left : left + 8] == other["image"][..., top : top + 8, left : left + 8])
        .flatten(1)
        .all(1)
        for top in (0, 8)
        for left in (0, 8)
    ]
    kept = torch.stack(same, 1).sum(1)  # of four, one in nine stays where it is
    assert ((kept > 0) & (kept < 4)).any()
    assert torch.equal(plain["labels"], other["labels"])
    assert moved.augments
    assert not squares().build().train.augments


def test_the_facts_and_the_fingerprints() -> None:
    data = squares().build()
    assert (data.facts.task, data.facts.shape, data.facts.classes) == ("multi-label", (1, 24, 24), 10)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [60, 20, 30]
    others = [Collage(of=PLAIN, side=3, train=60, seed=1), Collage(of=PLAIN, side=2, train=60)]
    prints = {data.train.fingerprint, data.test.fingerprint, *(one.build().train.fingerprint for one in others)}
    assert len(prints) == 4
    assert squares().build().train.fingerprint == data.train.fingerprint


def test_fewer_squares_keep_their_labels() -> None:
    whole, few = squares().build(), Fewer(of=squares(), limit=12).build()
    every, kept = (one.train.fetch(torch.arange(len(one.train)), None) for one in (whole, few))
    assert len(few.train) == 12
    for image, labels in zip(kept["image"], kept["labels"], strict=True):
        (row,) = (every["image"] == image).flatten(1).all(1).nonzero().flatten().tolist()
        assert torch.equal(labels, every["labels"][row])
    assert few.test.fingerprint == whole.test.fingerprint


def test_two_views_of_a_square_hold_the_same_images() -> None:
    data = TwoViews(of=Collage(of=Digits(shift=1), train=40)).build()
    batch = data.train.fetch(torch.arange(40), torch.Generator().manual_seed(0))
    plain = data.test.fetch(torch.arange(40), None)
    assert batch["labels"].shape == (40, 10)
    assert not torch.equal(batch["image"], batch["second_image"])
    assert batch["image"].sum((1, 2, 3)) == pytest.approx(batch["second_image"].sum((1, 2, 3)), rel=0.3)
    assert torch.equal(plain["image"], plain["second_image"])
    with pytest.raises(StillhouseError, match="two-views"):
        TwoViews(of=PythonNames(lines=200, block=24, vocabulary=300)).build()


def test_what_is_not_classified_is_told() -> None:
    with pytest.raises(StillhouseError, match="collage"):
        Collage(of=LowResolution(of=PLAIN)).build()
