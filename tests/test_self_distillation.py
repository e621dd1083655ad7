"""Self-distillation of vision transformers: targets, what is hidden, profiles, and that it learns without collapse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Facts
from stillhouse.engine.optim import frozen_copy
from stillhouse.errors import StillhouseError
from stillhouse.methods.prototype_kinds import Hiding, Profile
from stillhouse.methods.prototype_kinds import SelfDistillation as Kind
from stillhouse.methods.roles import Roles
from stillhouse.methods.self_distillation import SelfDistillation, stratified
from stillhouse.networks.kinds import ViT as ViTKind
from stillhouse.objectives.prototypes import evenly_assigned
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts(task="classification", shape=(1, 8, 8), classes=10)
NAMES = ("image", "second_image")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(size: int = 6) -> dict[str, Tensor]:
    rng = seeded()
    views = {name: torch.rand(size, 1, 8, 8, generator=rng) for name in NAMES}
    return {"index": torch.arange(size)} | views


def made(kind: Kind, *, tokens: bool = False, example: dict[str, Tensor] | None = None) -> SelfDistillation:
    torch.manual_seed(0)
    network = ViTKind(width=16, depth=2, heads=2, distillation=tokens).build(FACTS)
    method = kind.build(Roles(Model(network, ImageView(Image(), FACTS)), None, FACTS, example or batch()))
    assert isinstance(method, SelfDistillation)
    method.student.average = frozen_copy(method.student.module)  # type: ignore[assignment]  # what the engine does
    return method


def by_hand(method: SelfDistillation, image: Tensor, token: int, hidden: Tensor | None = None) -> Tensor:
    """The head's scores of a token of each image, [B, K] float64."""
    view = {"image": image} if hidden is None else {"image": image, "hidden": hidden}
    with torch.no_grad():
        module = method.student.module
        return module.head(module.signals(view, ["tokens"])["tokens"][:, token]).double()


def cross_entropy(target: Tensor, scores: Tensor) -> Tensor:
    return -(target * (scores / 0.1).log_softmax(-1)).sum(-1)


def test_each_view_learns_from_the_other_one() -> None:
    method, one = made(Kind(prototypes=12, teacher_temperature=0.01)), batch()
    (found,) = method.update_student(one, seeded()).values()
    scores = [by_hand(method, one[name], 0) for name in NAMES]
    first, second = evenly_assigned(torch.cat(scores), 0.01).chunk(2)
    assert (first - second).abs().max() > 0.05
    expected = torch.cat([cross_entropy(second, scores[0]), cross_entropy(first, scores[1])])
    torch.testing.assert_close(found.values.double(), expected, rtol=1e-3, atol=1e-4)


def test_the_most_attended_patches_are_hidden() -> None:
    attention = torch.rand(3, 2, 17, 17, generator=seeded())
    gone = made(Kind(hide=Hiding(share=0.25, chance=1.0))).hidden(attention, seeded())
    assert gone is not None
    for row in range(3):
        mean = (attention[row, 0, 0, 1:] + attention[row, 1, 0, 1:]) / 2
        assert set(gone[row].nonzero().flatten().tolist()) == set(mean.argsort(descending=True)[:4].tolist())
    anywhere = made(Kind(hide=Hiding(by="random", share=0.25, chance=1.0))).hidden(attention, seeded())
    assert anywhere is not None
    assert anywhere.sum(1).tolist() == [4, 4, 4]
    assert not torch.equal(anywhere, gone)
    seldom = made(Kind(hide=Hiding(share=0.25, chance=0.3))).hidden(attention.repeat(100, 1, 1, 1), seeded())
    assert seldom is not None
    assert set(seldom.sum(1).tolist()) == {0, 4}
    assert 0.2 < (seldom.sum(1) > 0).double().mean() < 0.4
    assert made(Kind()).hidden(attention, seeded()) is None


def test_hidden_patches_are_held_to_what_the_teacher_says_of_them() -> None:
    method, one = made(Kind(prototypes=12, hide=Hiding(share=0.5, chance=1.0))), batch()
    found = method.update_student(one, seeded())
    images = torch.cat([one[name] for name in NAMES])
    with torch.no_grad():
        maps = method.student.module.signals({"image": images}, [method.attention])[method.attention]
    top = maps[:, :, 0, 1:].mean(1).topk(8).indices
    gone = functional.one_hot(top, 16).sum(1).bool()
    whole = torch.stack([by_hand(method, images, 1 + place) for place in range(16)], 1)
    own = torch.stack([by_hand(method, images, 1 + place, gone) for place in range(16)], 1)
    expected = cross_entropy(evenly_assigned(whole[gone], 0.02), own[gone])
    torch.testing.assert_close(found["patch"].values.double(), expected, rtol=1e-3, atol=1e-4)
    target = evenly_assigned(by_hand(method, images, 0), 0.02).roll(6, 0)  # the class token sees what is left
    token = cross_entropy(target, by_hand(method, images, 0, gone))
    torch.testing.assert_close(found["token"].values.double(), token, rtol=1e-3, atol=1e-4)


def test_a_profile_takes_one_patch_from_each_cell() -> None:
    patches = functional.one_hot(torch.arange(16), 16).double().expand(100, 16, 16)  # each patch its own prototype
    found = stratified(patches, (4, 4), 2, seeded())
    quarters = torch.tensor([[2 * (y // 2) + x // 2 for x in range(4)] for y in range(4)]).flatten()
    for row in found:
        chosen = row.nonzero().flatten()
        assert sorted(quarters[chosen].tolist()) == [0, 1, 2, 3]
        assert torch.equal(row[chosen], torch.full((4,), 0.25, dtype=torch.float64))
    assert (found.sum(0) > 0).all()  # every patch is drawn at some time


def test_the_second_token_learns_patches_and_the_first_ones_target() -> None:
    one = batch()
    images = torch.cat([one[name] for name in NAMES])
    for alpha in (0.0, 0.3, 1.0):
        method = made(Kind(prototypes=12, profile=Profile(cell=1, alpha=alpha)), tokens=True)  # every patch
        losses = method.update_student(one, seeded())
        patches = torch.stack([by_hand(method, images, 2 + place) for place in range(16)]).mean(0)
        target = evenly_assigned(alpha * patches + (1 - alpha) * by_hand(method, images, 0), 0.02).roll(6, 0)
        expected = cross_entropy(target, by_hand(method, images, 1))
        torch.testing.assert_close(losses["profile"].values.double(), expected, rtol=1e-3, atol=1e-4)


def test_it_brings_views_of_one_image_together_and_keeps_images_apart() -> None:
    method, rng = made(Kind(prototypes=16)), seeded()
    images = batch(16)["image"]
    optimizer = torch.optim.Adam(method.student.parameters(), lr=3e-3)

    def views() -> dict[str, Tensor]:
        return {name: images + 0.05 * torch.randn(images.shape, generator=rng) for name in NAMES}

    for _ in range(80):
        (loss,) = method.update_student(views(), rng).values()
        optimizer.zero_grad()
        loss.values.mean().backward()
        optimizer.step()
        with torch.no_grad():
            for mean, now in zip(method.student.final.parameters(), method.student.module.parameters(), strict=True):
                mean.lerp_(now, 0.1)
    new = views()
    first, second = (by_hand(method, new[name], 0).argmax(-1) for name in NAMES)
    assert (first == second).double().mean() > 0.8
    assert len(first.unique()) > 8  # one prototype for all would be a collapse


def test_misfits_are_told() -> None:
    with pytest.raises(StillhouseError, match="distillation: true"):
        made(Kind(profile=Profile()))
    with pytest.raises(StillhouseError, match=r"set method\.profile\.cell to a divisor"):
        made(Kind(profile=Profile(cell=3)), tokens=True)
    with pytest.raises(StillhouseError, match="two-views"):
        made(Kind(), example={"image": batch()["image"]})
