"""Self-distillation: targets, what is hidden, profiles, and that it learns without falling in on itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Facts
from stillhouse.engine.optim import frozen_copy
from stillhouse.errors import StillhouseError
from stillhouse.methods.masked_kinds import Hiding
from stillhouse.methods.masked_kinds import SelfDistillation as Kind
from stillhouse.methods.roles import Roles
from stillhouse.methods.self_distillation import SelfDistillation
from stillhouse.networks.kinds import ViT as ViTKind
from stillhouse.objectives.prototypes import Centre, prototype_cross_entropy
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts(task="classification", shape=(1, 8, 8), classes=10)


def batch(size: int = 6, seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "index": torch.arange(size),
        "image": torch.rand(size, 1, 8, 8, generator=rng),
        "second_image": torch.rand(size, 1, 8, 8, generator=rng),
    }


def made(kind: Kind, *, tokens: bool = False, prototypes: int | None = 12) -> SelfDistillation:
    torch.manual_seed(0)
    network = ViTKind(width=16, depth=2, heads=2, distillation=tokens, prototypes=prototypes).build(FACTS)
    method = SelfDistillation(kind, Roles(Model(network, ImageView(Image(), FACTS)), None, FACTS, batch()))
    method.student.average = frozen_copy(method.student.module)  # type: ignore[assignment]  # what the engine does
    return method


def test_the_loss_is_the_cross_entropy_of_two_softmaxes() -> None:
    rng = torch.Generator().manual_seed(0)
    ours = torch.randn(5, 3, 7, generator=rng, dtype=torch.float64, requires_grad=True)
    theirs = torch.randn(5, 3, 7, generator=rng, dtype=torch.float64).softmax(-1)
    q = (ours / 0.2).exp() / (ours / 0.2).exp().sum(-1, keepdim=True)
    torch.testing.assert_close(prototype_cross_entropy(ours, theirs, temperature=0.2), -(theirs * q.log()).sum(-1))
    assert torch.autograd.gradcheck(lambda x: prototype_cross_entropy(x, theirs, temperature=0.2), ours)


def test_targets_are_centred_by_the_batches_before() -> None:
    rng = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 4, 5, 7, generator=rng).double()
    centre = Centre(0.9)
    torch.testing.assert_close(centre.targets(one, 0.5), (one / 0.5).softmax(-1))
    moved = 0.1 * one.reshape(-1, 7).mean(0)
    torch.testing.assert_close(centre.targets(two, 0.5), ((two - moved) / 0.5).softmax(-1))
    assert centre.mean is not None
    torch.testing.assert_close(centre.mean, 0.9 * moved + 0.1 * two.reshape(-1, 7).mean(0))


def test_each_view_learns_from_the_other_one() -> None:
    method, one = made(Kind()), batch()
    found = method.update_student(one, torch.Generator().manual_seed(0))["token"].values
    with torch.no_grad():
        scores = [
            method.student.module.signals({"image": one[name]}, ["prototypes"])["prototypes"][:, 0].double()
            for name in ("image", "second_image")
        ]
    targets = [(s / 0.04).softmax(-1) for s in scores]
    first = -(targets[1] * (scores[0] / 0.1).log_softmax(-1)).sum(-1)
    second = -(targets[0] * (scores[1] / 0.1).log_softmax(-1)).sum(-1)
    torch.testing.assert_close(found.double(), (first + second) / 2, rtol=1e-4, atol=1e-5)


def test_the_most_attended_patches_are_hidden() -> None:
    method = made(Kind(hide=Hiding(share=0.25)))
    attention = torch.rand(3, 2, 17, 17, generator=torch.Generator().manual_seed(0))
    gone = method.hidden(attention, torch.Generator())
    for row in range(3):
        mean = (attention[row, 0, 0, 1:] + attention[row, 1, 0, 1:]) / 2
        assert set(gone[row].nonzero().flatten().tolist()) == set(mean.argsort(descending=True)[:4].tolist())
    rng = torch.Generator().manual_seed(0)
    anywhere = made(Kind(hide=Hiding(by="random", share=0.25))).hidden(attention, rng)
    assert anywhere.sum(1).tolist() == [4, 4, 4]
    assert not torch.equal(anywhere, gone)
    seldom = made(Kind(hide=Hiding(share=0.25, chance=0.3))).hidden(attention.repeat(100, 1, 1, 1), rng)
    assert set(seldom.sum(1).tolist()) == {0, 4}
    assert 0.2 < (seldom.sum(1) > 0).double().mean() < 0.4


def test_hidden_patches_are_held_to_what_the_teacher_says_of_them() -> None:
    method, one = made(Kind(hide=Hiding(share=0.5))), batch()
    found = method.update_student(one, torch.Generator().manual_seed(0))["patch"].values
    expected = torch.zeros(6, dtype=torch.float64)
    asked = ["prototypes", "features.blocks.1.attention.softmax"]
    with torch.no_grad():
        for name in ("image", "second_image"):
            whole = method.student.module.signals({"image": one[name]}, asked)
            target = (whole["prototypes"][:, 1:].double() / 0.04).softmax(-1)
            top = whole[asked[1]][:, :, 0, 1:].mean(1).topk(8).indices
            gone = functional.one_hot(top, 16).sum(1).bool()
            own = method.student.module.signals({"image": one[name], "hidden": gone}, ["prototypes"])["prototypes"]
            values = -(target * (own[:, 1:].double() / 0.1).log_softmax(-1)).sum(-1)
            expected += torch.stack([values[row, top[row]].mean() for row in range(6)]) / 2
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_profile_takes_one_patch_from_each_quarter() -> None:
    method = made(Kind(profile=True), tokens=True)
    patches = functional.one_hot(torch.arange(16), 16).double().expand(2, 50, 16, 16)  # each patch its own prototype
    profile = method.profile(patches, torch.Generator().manual_seed(0))
    quarters = torch.tensor([[2 * (y // 2) + x // 2 for x in range(4)] for y in range(4)]).flatten()
    for row in profile.flatten(0, 1):
        chosen = row.nonzero().flatten()
        assert sorted(quarters[chosen].tolist()) == [0, 1, 2, 3]
        assert torch.equal(row[chosen], torch.full((4,), 0.25, dtype=torch.float64))
    assert (profile.sum((0, 1)) > 0).all()  # every patch is drawn at some time
    losses = method.update_student(batch(), torch.Generator().manual_seed(0))
    losses["profile"].values.sum().backward()
    assert method.student.module.network.prefix_tokens.grad[0, 1].abs().sum() > 0  # type: ignore[index]


def test_what_it_goes_on_with_is_in_its_state() -> None:
    one, two = made(Kind(hide=Hiding())), made(Kind(hide=Hiding()))
    one.update_student(batch(seed=1), torch.Generator().manual_seed(0))
    two.load_state_dict(one.state_dict())
    first, second = (m.update_student(batch(), torch.Generator().manual_seed(0)) for m in (one, two))
    assert all(torch.equal(first[name].values, second[name].values) for name in first)


def test_it_brings_views_of_one_image_together_and_keeps_images_apart() -> None:
    method, rng = made(Kind(momentum=0.9)), torch.Generator().manual_seed(0)
    images = batch(16)["image"]
    optimizer = torch.optim.Adam(method.student.parameters(), lr=3e-3)
    for _ in range(80):
        noisy = [images + 0.05 * torch.randn(images.shape, generator=rng) for _ in range(2)]
        views = {"index": torch.arange(16), "image": noisy[0], "second_image": noisy[1]}
        (loss,) = method.update_student(views, rng).values()
        optimizer.zero_grad()
        loss.values.mean().backward()
        optimizer.step()
        with torch.no_grad():
            for mean, now in zip(method.student.average.parameters(), method.student.module.parameters(), strict=True):  # type: ignore[union-attr]
                mean.lerp_(now, 0.1)
    with torch.no_grad():
        told = [method.student.module.signals({"image": v}, ["prototypes"])["prototypes"][:, 0] for v in noisy]
    p, q = ((one / 0.1).softmax(-1) for one in told)
    assert (p.argmax(-1) == q.argmax(-1)).double().mean() > 0.8
    assert len(p.argmax(-1).unique()) > 3  # one prototype for all would be a collapse


def test_misfits_are_told() -> None:
    with pytest.raises(StillhouseError, match=r"set student\.network\.prototypes"):
        made(Kind(), prototypes=None)
    with pytest.raises(StillhouseError, match="distillation: true"):
        made(Kind(profile=True))
