"""Masked images: what is hidden, what is found again, and who learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.methods.masked_autoencoder import (
    Decoder,
    MaskedAutoencoder,
    patches_of,
    reconstruction,
    split,
    vision_transformer,
)
from stillhouse.methods.masked_kinds import MaskedAutoencoder as Kind
from stillhouse.methods.roles import Roles
from stillhouse.networks.kinds import ConvNet
from stillhouse.networks.kinds import ViT as ViTKind
from stillhouse.objectives.feature_kinds import SmoothL1
from stillhouse.objectives.logit_kinds import L1
from stillhouse.recipe.execute import distill
from stillhouse.recipe.plan import planned
from stillhouse.recipe.schema import Recipe
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts(task="classification", shape=(1, 8, 8), classes=10)


def vit(width: int, depth: int = 2) -> Model:
    torch.manual_seed(width)
    return Model(ViTKind(width=width, depth=depth, heads=2).build(FACTS), ImageView(Image(), FACTS))


def batch(size: int = 4) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    return {"index": torch.arange(size), "image": torch.rand(size, 1, 8, 8, generator=rng)}


def roles(*, teacher: Model | None = None, student: Model | None = None) -> Roles:
    return Roles(student or vit(16), None if teacher is None else Frozen(teacher), FACTS, batch())


def test_every_patch_is_visible_or_hidden() -> None:
    visible, hidden = split(5, 16, 0.75, torch.Generator().manual_seed(0))
    assert visible.shape == (5, 4)
    assert torch.equal(torch.cat([visible, hidden], 1).sort(1).values, torch.arange(16).expand(5, -1))
    assert len({tuple(row.tolist()) for row in visible}) == 5  # of each image its own
    assert split(1, 16, 0.99, None)[0].shape == (1, 1)


def test_only_hidden_patches_count() -> None:
    image = batch(2)["image"]
    pixels = patches_of(image, 2)
    assert torch.equal(pixels[0, 6], image[0, 0, 2:4, 4:6].flatten())  # second row, third column of 4 x 4
    decoded, hidden = pixels.clone(), torch.tensor([[1, 2], [3, 0]])
    decoded[:, 5] += 9.0
    assert torch.equal(reconstruction(decoded, pixels, hidden), torch.zeros(2))
    decoded[0, 2] += torch.tensor([1.0, 0.0, 0.0, 3.0])
    torch.testing.assert_close(reconstruction(decoded, pixels, hidden), torch.tensor([10 / 4 / 2, 0.0]))


def test_the_decoder_puts_tokens_back_in_their_places() -> None:
    network = vision_transformer(vit(16))
    decoder = Decoder(Kind(width=8, depth=1), network, channels=1).eval()
    decoder.blocks = torch.nn.Sequential()  # so that every place answers for itself
    tokens, visible = torch.randn(2, 4, 16), torch.tensor([[2, 9, 4], [0, 1, 15]])
    found = decoder(tokens, visible)
    assert found.shape == (2, 16, 8)
    for row in range(2):
        for place in range(16):
            known = (visible[row] == place).nonzero()
            inside = decoder.embed(tokens[row, 1 + int(known)]) if len(known) else decoder.mask_token
            torch.testing.assert_close(found[row, place], decoder.norm(inside + decoder.positions[0, place]))


def test_what_is_hidden_does_not_reach_the_loss_but_as_its_target() -> None:
    method = MaskedAutoencoder(Kind(), roles())
    one = batch()
    image = one["image"].clone().requires_grad_()
    loss = method.update_student(one | {"image": image}, torch.Generator().manual_seed(1))["pixels"].values
    visible, hidden = split(4, 16, 0.75, torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(loss.sum(), image)
    assert (patches_of(gradient, 2)[0, visible[0]].abs().sum(-1) > 0).all()
    decoded = method._decoder.pixels(method._look(one, visible)["decoded"])
    expected = 2 * (patches_of(one["image"], 2) - decoded) / 4 / hidden.shape[1]
    at_hidden = patches_of(gradient, 2)[0, hidden[0]]
    torch.testing.assert_close(at_hidden, expected[0, hidden[0]], rtol=1e-4, atol=1e-6)


def test_student_and_teacher_see_the_same_patches() -> None:
    teacher, one = vit(24), batch()
    method = MaskedAutoencoder(Kind(terms=[L1(signal="features.blocks.0", project="linear")]), roles(teacher=teacher))
    losses = method.update_student(one, torch.Generator().manual_seed(1))
    (found,) = (loss for name, loss in losses.items() if name != "pixels")
    (part,) = (part for name, part in method.student.parts.items() if name != "decoder")
    visible, _ = split(4, 16, 0.75, torch.Generator().manual_seed(1))
    seen = one | {"visible": visible}
    with torch.no_grad():
        ours, theirs = (m.signals(seen, ["features.blocks.0"])["features.blocks.0"] for m in (roles().student, teacher))
        expected = (part[0](ours) - theirs).abs().mean((1, 2))  # type: ignore[index]
    assert ours.shape == (4, 5, 16)
    torch.testing.assert_close(found.values, expected)
    found.values.sum().backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teacher_runs_no_further_than_it_is_looked_at() -> None:
    teacher, ran = vit(24, depth=3), []
    for number, block in enumerate(vision_transformer(teacher).blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    features = L1(signal="features.blocks.0", teacher_signal="features.blocks.1", project="linear")
    method = MaskedAutoencoder(Kind(terms=[features]), roles(teacher=teacher))
    ran.clear()
    method.update_student(batch(), torch.Generator().manual_seed(1))
    assert ran == [0, 1]
    assert len(vision_transformer(teacher).blocks) == 3  # its own stay
    ran.clear()
    MaskedAutoencoder(Kind(terms=[features, L1(signal="tokens", project="linear")]), roles(teacher=teacher))
    assert ran == [0, 1, 2]


def test_a_generic_stage_fits_the_decoder_to_the_teachers_patches() -> None:
    teacher = vit(24)
    kind = Kind(
        pixels=False,
        teacher_sees="everything",
        terms=[SmoothL1(signal="decoded", teacher_signal="patches", project="linear")],
    )
    method = MaskedAutoencoder(kind, roles(teacher=teacher))
    optimizer = torch.optim.Adam(method.student.parameters(), lr=3e-3)
    rng, one, seen = torch.Generator().manual_seed(1), batch(8), []
    for _ in range(60):
        (loss,) = method.update_student(one, rng).values()
        assert loss.values.shape == (8,)
        optimizer.zero_grad()
        loss.values.mean().backward()
        optimizer.step()
        seen.append(loss.values.mean().item())
    assert sum(seen[-5:]) < 0.5 * sum(seen[:5])


def test_misfits_are_told() -> None:
    with pytest.raises(StillhouseError, match="choose network: vit"):
        MaskedAutoencoder(Kind(), roles(student=Model(ConvNet().build(FACTS), ImageView(Image(), FACTS))))
    with pytest.raises(StillhouseError, match="need a teacher"):
        MaskedAutoencoder(Kind(terms=[L1(signal="features.blocks.0")]), roles())
    with pytest.raises(StillhouseError, match="nothing to learn"):
        MaskedAutoencoder(Kind(pixels=False), roles())


def test_a_teacher_that_a_later_stage_makes_is_absent_before(tmp_path: Path) -> None:
    """The stage that makes it inherits none, the ones after it do."""
    stage = {"network": {"kind": "vit", "width": 8, "depth": 1, "heads": 1}, "weights": {"kind": "stage", "stage": "b"}}
    words = {
        "name": "later",
        "data": "digits",
        "stages": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
        "teacher": stage,
        "student": {"network": stage["network"]},
        "method": {"kind": "match", "terms": [{"signal": "labels", "by": "cross_entropy"}]},
        "train": {"steps": 1, "batch_size": 8},
    }
    found = {stage.name: stage.teacher is not None for stage in planned(Recipe.model_validate(words))}
    assert found == {"a": False, "b": False, "c": True, "student": True, "control": True}
    distill(Recipe.model_validate(words), out=tmp_path / "run", device="cpu", progress=False)
