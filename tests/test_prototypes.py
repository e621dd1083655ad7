"""Self-distillation over prototypes: even targets, characters of a line, and what each view learns from the other."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Facts
from stillhouse.engine.optim import frozen_copy
from stillhouse.errors import StillhouseError
from stillhouse.methods.characters import Characters, characters, pooled, threshold
from stillhouse.methods.prototype_kinds import Characters as CharactersKind
from stillhouse.methods.roles import Roles
from stillhouse.networks.kinds import ConvNet
from stillhouse.objectives.prototypes import evenly_assigned, prototype_cross_entropy
from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe
from stillhouse.sources.altered_kinds import Jitter, Jittered, Lines
from stillhouse.sources.jitter import inked, maps
from stillhouse.sources.kinds import Digits
from stillhouse.sources.spatial import sampled
from stillhouse.students.load import load_student
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts(task="classification", shape=(1, 8, 8), classes=10)
STILL = Jitter(zoom=0, degrees=0, slant=0, move=0, blur=0, fade=0, noise=0)
ROWS = torch.arange(12)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def line() -> Tensor:
    """Two lines of 8 x 20: three bars of 2, 3 and 1 columns, and one bar of 4, faint throughout."""
    images = torch.zeros(2, 1, 8, 20)
    images[0, 0, 1:7, 2:4], images[0, 0, 2:5, 8:11], images[0, 0, 0:8, 16] = 0.9, 0.8, 1.0
    images[1, 0, 3:6, 5:9] = 0.3
    return images + 0.02 * torch.rand(images.shape, generator=seeded())


# --- targets and losses ------------------------------------------------------------------------


def test_the_loss_is_the_cross_entropy_of_two_softmaxes() -> None:
    ours = torch.randn(5, 3, 7, generator=seeded(), dtype=torch.float64, requires_grad=True)
    theirs = torch.randn(5, 3, 7, generator=seeded(1), dtype=torch.float64).softmax(-1)
    q = (ours / 0.2).exp() / (ours / 0.2).exp().sum(-1, keepdim=True)
    torch.testing.assert_close(prototype_cross_entropy(ours, theirs, temperature=0.2), -(theirs * q.log()).sum(-1))
    assert torch.autograd.gradcheck(lambda x: prototype_cross_entropy(x, theirs, temperature=0.2), ours)


def test_targets_use_every_prototype_alike() -> None:
    scores = torch.randn(40, 8, generator=seeded(), dtype=torch.float64) + torch.arange(8)  # the last one leads
    p = (scores / 0.7).exp()  # by hand, in probability space
    for _ in range(3):
        p = p / p.sum(0)
        p = p / p.sum(1, keepdim=True)
    torch.testing.assert_close(evenly_assigned(scores, 0.7), p)
    even = evenly_assigned(scores, 0.7, rounds=200)
    torch.testing.assert_close(even.sum(1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(even.sum(0), torch.full((8,), 5.0, dtype=torch.float64), rtol=1e-4, atol=0)
    sharp = evenly_assigned(scores.float(), 1e-3)
    assert torch.isfinite(sharp).all()
    assert sharp.amax(1).mean() > 0.9


# --- characters of a line ----------------------------------------------------------------------


def test_the_ink_of_each_character_is_found_apart() -> None:
    images = line()
    found = characters(images, 4)
    assert found.shape == (2, 4, 8, 20)
    bright = images[:, 0] > 0.2
    for place, columns in enumerate([(2, 4), (8, 11), (16, 17)]):
        alone = torch.zeros(8, 20, dtype=torch.bool)
        alone[:, slice(*columns)] = bright[0, :, slice(*columns)]
        assert torch.equal(found[0, place], alone)
    assert torch.equal(found[1, 0], bright[1])
    assert not found[0, 3].any()
    assert not found[1, 1:].any()
    assert torch.equal(characters(images, 2), found[:, :2])


def test_the_threshold_lies_between_two_means() -> None:
    rows = torch.tensor([[0.0, 0.1, 0.2, 0.9, 1.1], [0.1, 0.1, 0.1, 0.1, 0.5]])
    torch.testing.assert_close(threshold(rows), torch.tensor([0.55, 0.3]))


def test_pooling_is_the_mean_over_a_region() -> None:
    seen = torch.randn(2, 3, 2, 5, generator=seeded())
    regions = torch.zeros(2, 2, 8, 20, dtype=torch.bool)
    regions[0, 0, :4, 4:12] = True  # the cells 1 and 2 of the first row
    regions[0, 1, :, 18:] = True  # half of the last column's cells
    regions[1, 0, 0:4, 0:4], regions[1, 0, 4:6, 0:4] = True, True  # a cell, and half of the one below
    found = pooled(seen, regions)
    torch.testing.assert_close(found[0, 0], seen[0, :, 0, 1:3].mean(1))
    torch.testing.assert_close(found[0, 1], seen[0, :, :, 4].mean(1))
    torch.testing.assert_close(found[1, 0], (seen[1, :, 0, 0] + seen[1, :, 1, 0] / 2) / 1.5)
    assert not found[1, 1].any()


def model(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model(ConvNet(width=4).build(FACTS), ImageView(Image())).eval()


def made(**words: Any) -> Characters:
    kind = CharactersKind(prototypes=6, hidden=8, bottleneck=5, **words)
    method = kind.build(Roles(model(), None, FACTS, {"index": ROWS[:2], "image": line()}))
    assert isinstance(method, Characters)
    method.student.average = frozen_copy(method.student.module)  # type: ignore[assignment]  # what the engine does
    return method


def test_a_character_in_one_view_learns_from_the_same_one_in_the_other() -> None:
    method = made(jitter=STILL.model_copy(update={"move": 1.0}), teacher_temperature=0.005)
    images = line()
    found = method.update_student({"image": images}, seeded(3))["character"].values
    where = maps(method.kind.jitter, images.shape, seeded(3))
    moved = sampled(images, where)
    ink = torch.stack([characters(images, 8), sampled(characters(images, 8).float(), where) > 0.1])
    vectors: list[list[Tensor]] = [[], []]
    with torch.no_grad():
        for image in range(2):
            for place in range(8):
                if ink[:, image, place].flatten(1).any(1).all():
                    for view, seen in enumerate((images, moved)):
                        tapped = method.student.module.signals({"image": seen[image : image + 1]}, ["features.map"])
                        one = pooled(tapped["features.map"], ink[view, image, place][None, None])[0, 0]
                        vectors[view].append(method.student.module.head(one).double())
    first, second = (torch.stack(view) for view in vectors)
    assert len(first) < 4  # the move takes some out of sight, which are left out in both
    targets = evenly_assigned(torch.cat([first, second]), 0.005).chunk(2)
    assert (targets[0] - targets[1]).abs().max() > 0.1
    by_hand = [
        -(targets[1] * (first / 0.1).log_softmax(-1)).sum(-1),
        -(targets[0] * (second / 0.1).log_softmax(-1)).sum(-1),
    ]
    torch.testing.assert_close(found.double(), torch.stack(by_hand), rtol=1e-3, atol=1e-4)


def test_slices_and_lines_stay_in_their_places() -> None:
    images = line()
    where = maps(Jitter(), images.shape, seeded())
    slices = made(by="slice", most=4).regions(images, where)
    assert slices.shape == (2, 2, 4, 8, 20)
    assert torch.equal(slices.sum(2), torch.ones(2, 2, 8, 20, dtype=torch.int64))
    assert slices[1, 0, 2, 3].nonzero().flatten().tolist() == [10, 11, 12, 13, 14]
    whole = made(by="line").regions(images, where)
    assert whole.shape == (2, 2, 1, 8, 20)
    assert whole.all()


def test_the_momentum_rises_along_a_half_cosine() -> None:
    method = made(momentum=0.8, final_momentum=1.0)
    for method.progress, expected in ((0.0, 0.8), (0.25, 1 - 0.1 * (1 + math.sqrt(0.5))), (0.5, 0.9), (1.0, 1.0)):
        list(method.schedule())
        assert method.student.decay == pytest.approx(expected)


def test_the_average_takes_no_gradient_and_the_head_does() -> None:
    method = made()
    method.update_student({"image": line()}, seeded())["character"].values.sum().backward()
    module = method.student.module
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.head.parameters())
    assert module.network.conv1.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    assert all(p.grad is None for p in method.student.final.parameters())


def test_what_has_no_map_is_told() -> None:
    with pytest.raises(StillhouseError, match=r"features\.map"):
        made(signal="logits")


# --- data --------------------------------------------------------------------------------------


def test_a_line_holds_the_example_and_others() -> None:
    plain = Digits(shift=0).build()
    data = Lines(of=Digits(shift=0), length=3).build()
    batch = data.train.fetch(ROWS, seeded())
    own: Batch = plain.train.fetch(ROWS, None)
    assert batch["image"].shape == (12, 1, 8, 24)
    assert torch.equal(batch["labels"], own["labels"])
    parts = batch["image"].split(8, dim=3)
    holds = torch.stack([(part == own["image"]).flatten(1).all(1) for part in parts], 1)
    assert holds.any(1).all()
    assert len(holds.int().argmax(1).unique()) > 1  # not always in the same place
    everything = plain.train.fetch(torch.arange(len(plain.train)), None)["image"]
    assert all((everything == part[0]).flatten(1).all(1).any() for part in parts)
    assert torch.equal(data.train.fetch(ROWS, None)["image"], own["image"])
    assert torch.equal(data.test.fetch(ROWS, seeded())["image"], plain.test.fetch(ROWS, None)["image"])
    assert data.train.fingerprint != plain.train.fingerprint


def test_jitter_changes_training_images_alone_and_each_time() -> None:
    plain = Digits(shift=0).build()
    data, still = Jittered(of=Digits(shift=0)).build(), Jittered(of=Digits(shift=0), by=STILL).build()
    one, two = (data.train.fetch(ROWS, seeded(n))["image"] for n in range(2))
    assert not torch.equal(one, two)
    torch.testing.assert_close(still.train.fetch(ROWS, seeded())["image"], plain.train.fetch(ROWS, None)["image"])
    assert torch.equal(data.train.fetch(ROWS, None)["image"], plain.train.fetch(ROWS, None)["image"])
    assert torch.equal(data.validation.fetch(ROWS, seeded())["image"], plain.validation.fetch(ROWS, None)["image"])


def test_maps_keep_pixels_square_and_stay_within_their_limits() -> None:
    shape = torch.Size([500, 1, 8, 32])
    turned = maps(STILL.model_copy(update={"degrees": 30.0}), shape, seeded())
    pixels = turned[:, :, :2] * torch.tensor([[1.0, 1 / 4], [4.0, 1.0]]).reciprocal()  # in pixels, not in shares
    torch.testing.assert_close(pixels @ pixels.mT, torch.eye(2).expand(500, 2, 2), atol=1e-5, rtol=0)
    angle = torch.atan2(pixels[:, 1, 0], pixels[:, 0, 0]).rad2deg()
    assert angle.abs().max() <= 30.001
    assert angle.abs().max() > 28
    moved = maps(STILL.model_copy(update={"move": 0.2}), shape, seeded())[:, :, 2]
    assert 0.19 < moved.abs().max() <= 0.2
    images = torch.rand(20, 1, 8, 8, generator=seeded())
    pale = inked(images, STILL.model_copy(update={"fade": 0.5}), seeded()) / images
    assert (pale.flatten(1).std(1) < 1e-4).all()
    assert 0.5 <= pale.min() < 0.6 < 0.9 < pale.max() <= 1.0001


# --- a run -------------------------------------------------------------------------------------


def test_a_run_learns_characters_and_leaves_the_network_alone(tmp_path: Any) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "characters",
            "data": {"kind": "lines", "of": "digits", "length": 3},
            "student": {"network": {"kind": "convnet", "width": 4}},
            "method": {"kind": "characters", "prototypes": 32},
            "train": {"steps": 60, "log_every": 20, "batch_size": 32, "optimizer": {"kind": "adamw", "lr": 5.0e-3}},
            "evaluate": [{"kind": "knn", "signal": "features.pool"}],
            "control": False,
        }
    )
    run = distill(recipe, out=tmp_path / "run", progress=False)
    logged = [json.loads(row)["losses"]["character"] for row in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert logged[-1] < logged[0]
    student = load_student(run.folder)
    assert not [name for name in student.network.state_dict() if "head" in name]
