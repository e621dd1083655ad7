"""Data made of other data: which rows, which labels, which pixels."""

from __future__ import annotations

import pytest
import torch

from stillhouse.engine.contracts import Batch, Source
from stillhouse.errors import StillhouseError
from stillhouse.sources.altered import labels_of
from stillhouse.sources.altered_kinds import (
    CutMix,
    Fewer,
    Grouped,
    LongTailed,
    MixUp,
    NoisyLabels,
    OnlyClasses,
    PartlyLabelled,
    TwoViews,
)
from stillhouse.sources.encoder_kinds import PythonNames
from stillhouse.sources.kinds import Digits

DIGITS = Digits()
PLAIN = Digits(shift=0)


def fetched(source: Source, count: int = 64, seed: int | None = None) -> Batch:
    rng = None if seed is None else torch.Generator().manual_seed(seed)
    return source.fetch(torch.arange(count), rng)


def test_long_tail_has_the_counts_of_its_formula() -> None:
    whole = torch.bincount(labels_of(DIGITS.build().train))
    counts = torch.bincount(labels_of(LongTailed(of=DIGITS, ratio=20).build().train))
    assert counts.tolist() == [round(int(whole[0]) * 20 ** (-c / 9)) for c in range(10)]


def test_altered_rows_are_the_original_images_with_their_own_labels() -> None:
    whole, some = PLAIN.build(), OnlyClasses(of=PLAIN, classes=[3, 7]).build()
    keep = torch.isin(labels_of(whole.train), torch.tensor([3, 7]))
    everything = whole.train.fetch(torch.arange(len(whole.train)), None)
    served = some.train.fetch(torch.arange(len(some.train)), None)
    assert torch.equal(served["image"], everything["image"][keep])
    assert torch.equal(served["labels"], everything["labels"][keep])
    assert served["index"].tolist() == list(range(int(keep.sum())))
    assert some.test.fingerprint == whole.test.fingerprint
    assert some.train.fingerprint != whole.train.fingerprint


def test_groups_change_every_split_and_the_facts() -> None:
    data = Grouped(of=PLAIN, groups=[[0, 2, 4], [1, 3]]).build()
    whole = labels_of(PLAIN.build().test)
    assert data.facts.classes == 2
    assert data.facts.names == ("0+2+4", "1+3")
    place = {0: 0, 2: 0, 4: 0, 1: 1, 3: 1}
    assert labels_of(data.test).tolist() == [place[c] for c in whole.tolist() if c in place]


def test_noisy_labels_are_wrong_as_often_as_asked_and_always_the_same() -> None:
    true = labels_of(DIGITS.build().train)
    noisy = labels_of(NoisyLabels(of=DIGITS, share=0.4).build().train)
    assert int((noisy != true).sum()) == round(0.4 * len(true))
    assert torch.equal(noisy, labels_of(NoisyLabels(of=DIGITS, share=0.4).build().train))
    assert not torch.equal(noisy, labels_of(NoisyLabels(of=DIGITS, share=0.4, seed=1).build().train))


def test_withheld_labels_are_minus_one_hundred() -> None:
    true = labels_of(DIGITS.build().train)
    shown = labels_of(PartlyLabelled(of=DIGITS, labels=50).build().train)
    assert int((shown != -100).sum()) == 50
    assert torch.equal(shown[shown != -100], true[shown != -100])


def test_fewer_keeps_each_class_its_share() -> None:
    counts = torch.bincount(labels_of(Fewer(of=DIGITS, limit=60).build().train))
    assert counts.sum() == 60
    assert counts.min() >= 5


def test_fewer_keeps_tagged_texts_with_their_tags() -> None:
    names = PythonNames(lines=200, block=24, vocabulary=300)
    whole, few = names.build().train, Fewer(of=names, limit=20).build().train
    every, kept = whole.fetch(torch.arange(len(whole)), None), few.fetch(torch.arange(20), None)
    pairs = [torch.stack([batch["input_ids"], batch["labels"]], 1) for batch in (every, kept)]  # [N, 2, T]
    same = (pairs[1][:, None] == pairs[0]).all(-1).all(-1)  # [20, N]
    assert len(few) == 20 < len(whole)
    assert same.any(1).all()
    assert same.any(0).sum() == 20


def test_mixup_mixes_images_and_labels_by_one_share() -> None:
    plain, data = fetched(PLAIN.build().train), MixUp(of=PLAIN).build()
    mixed = fetched(data.train, seed=1)
    rng = torch.Generator().manual_seed(1)
    order = torch.randperm(64, generator=rng)  # drawn first
    same = plain["labels"] == plain["labels"][order]
    share = mixed["labels"].gather(1, plain["labels"][:, None]).squeeze(1)  # [B]
    expected = share.view(-1, 1, 1, 1) * plain["image"] + (1 - share).view(-1, 1, 1, 1) * plain["image"][order]
    torch.testing.assert_close(mixed["image"][~same], expected[~same])
    assert share[~same].std() > 0.2  # a share an example, spread as Beta(1, 1) is
    torch.testing.assert_close(mixed["labels"].sum(1), torch.ones(64))
    assert fetched(data.train)["labels"].shape == (64, 10)
    assert fetched(data.test)["labels"].dim() == 1


def test_cutmix_labels_follow_the_pixels_that_are_left() -> None:
    plain, mixed = fetched(PLAIN.build().train), fetched(CutMix(of=PLAIN).build().train, seed=3)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    own, other = plain["image"], plain["image"][order]
    assert ((mixed["image"] == own) | (mixed["image"] == other)).all()
    differing = (own != other) & (plain["labels"] != plain["labels"][order]).view(-1, 1, 1, 1)
    share = mixed["labels"].gather(1, plain["labels"][:, None]).squeeze(1)
    left = (mixed["image"] == own)[differing].float().mean()
    assert abs(left - share[plain["labels"] != plain["labels"][order]].mean()) < 0.1
    assert 0.3 < share.mean() < 0.8


def test_second_view_is_another_crop_or_the_plain_image() -> None:
    crops = fetched(TwoViews(of=DIGITS).build().train, seed=0)
    assert not torch.equal(crops["image"], crops["second_image"])
    still = TwoViews(of=DIGITS, second="plain").build()
    assert torch.equal(fetched(still.train, seed=0)["second_image"], fetched(DIGITS.build().train)["image"])
    seen = fetched(still.test)
    assert torch.equal(seen["image"], seen["second_image"])


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (OnlyClasses(of=DIGITS, classes=[11]), "no class 11"),
        (Grouped(of=DIGITS, groups=[[0, 1], [1]]), "twice"),
        (Fewer(of=DIGITS, limit=3), "too few for 10 classes"),
        (NoisyLabels(of=MixUp(of=DIGITS)), "one class an example"),
    ],
)
def test_what_cannot_be_altered_is_told(kind: OnlyClasses, told: str) -> None:
    with pytest.raises(StillhouseError, match=told):
        kind.build()
