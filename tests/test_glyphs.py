"""Characters drawn in typefaces."""

from __future__ import annotations

import pytest
import torch

from stillhouse.engine.contracts import Data
from stillhouse.errors import StillhouseError
from stillhouse.sources.glyphs import _drawn
from stillhouse.sources.made_kinds import Glyphs

FONTS = ["DejaVuSans", "STIXGeneral"]


def build(**changes: object) -> Data:
    words: dict[str, object] = {"characters": "AOl7", "fonts": FONTS, "train": 40, "validation": 20, "test": 20}
    return Glyphs.model_validate({"kind": "glyphs", **words, **changes}).build()


def all_of(source: object) -> dict[str, torch.Tensor]:
    return source.fetch(torch.arange(len(source)), None)  # type: ignore[attr-defined, arg-type]


def test_every_class_has_as_many_images_as_any_other_and_splits_share_none() -> None:
    data = build()
    train, test = all_of(data.train), all_of(data.test)
    assert torch.bincount(train["labels"]).tolist() == [10, 10, 10, 10]
    assert train["image"].shape == (40, 1, 16, 16)
    nearest = torch.cdist(test["image"].flatten(1), train["image"].flatten(1)).min()
    assert nearest > 0.1
    assert train["image"].flatten(1).unique(dim=0).shape[0] == 40


def test_without_distortion_an_image_is_its_character() -> None:
    """A nearest neighbour over clean images of the same typefaces knows every character, so labels and drawings fit."""
    data = build(distortion=0.0, noise=0.0)
    train, test = all_of(data.train), all_of(data.test)
    near = torch.cdist(test["image"].flatten(1), train["image"].flatten(1)).argmin(1)
    assert torch.equal(train["labels"][near], test["labels"])
    o = train["image"][train["labels"] == 1].mean(0)[0]  # the letter O is hollow, and has its ink about its middle
    assert o[8, 7:9].mean() < 0.2 < o[8, 3:13].max()


def test_images_are_of_the_typeface_their_domain_says_and_of_others_where_asked() -> None:
    train = all_of(build(distortion=0.0, noise=0.0).train)
    for number, font in enumerate(FONTS):
        alone = all_of(build(distortion=0.0, noise=0.0, fonts=[font]).train)
        for character in range(4):
            rows = (train["domain"] == number) & (train["labels"] == character)
            expected = alone["image"][alone["labels"] == character][0]
            assert torch.equal(train["image"][rows], expected.expand(int(rows.sum()), -1, -1, -1))
    assert set(all_of(build(test_fonts=["cmr10"]).test)["domain"].tolist()) == {-1}


def test_the_same_seed_draws_the_same_images() -> None:
    first, other = build(), build(seed=1)
    assert build() is first, "drawn once in a process"
    _drawn.cache_clear()
    again = build()
    assert first.train.fingerprint == again.train.fingerprint != other.train.fingerprint
    assert torch.equal(all_of(first.test)["image"], all_of(again.test)["image"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fonts": ["Comic*"]}, "no typeface fits 'Comic"),
        ({"characters": "A\u4e00"}, "no typeface has all of"),
    ],
)
def test_what_cannot_be_drawn_is_told(changes: dict[str, object], said: str) -> None:
    with pytest.raises(StillhouseError, match=said):
        build(**changes)


def test_a_character_stands_once() -> None:
    with pytest.raises(ValueError, match="a stands there twice"):
        Glyphs(characters="aba")
