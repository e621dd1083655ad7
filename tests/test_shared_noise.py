"""A denoiser that learns from another under a prompt of its own: what is compared, and what alone is trained."""

from __future__ import annotations

import pytest
import torch

from stillhouse.engine.contracts import Batch, Facts
from stillhouse.errors import StillhouseError
from stillhouse.methods.diffusion_kinds import SharedNoise as Kind
from stillhouse.methods.roles import Roles
from stillhouse.methods.shared_noise import SharedNoise
from stillhouse.networks.encoder_kinds import LayersOf
from stillhouse.networks.kinds import Denoiser
from stillhouse.networks.prompted import Adapter, code
from stillhouse.networks.task_kinds import Prompted
from stillhouse.networks.weights import layers_of
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts("classification", (1, 4, 4), 3)
PLAIN = Denoiser(width=16, blocks=2, sigma_data=0.5)
VIEW = ImageView(Image(mean=(0.5,), std=(0.5,)))


def batch(size: int = 16) -> Batch:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(size) % 3
    images = (labels.view(-1, 1, 1, 1) / 3 + 0.1 * torch.rand(size, 1, 4, 4, generator=rng)).clamp(0, 1)
    return {"index": torch.arange(size), "image": images, "labels": labels}


def made(**options) -> SharedNoise:
    """A teacher that tells its classes apart, and a student that has all of it but the prompts."""
    torch.manual_seed(0)
    teacher = PLAIN.build(FACTS)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    student = Prompted(of=PLAIN, words=["eins", "zwei", "drei"], adapter=12).build(FACTS)
    student.load_state_dict(layers_of(LayersOf(stack="blocks"), teacher.state_dict(), student.state_dict()))
    roles = Roles(Model(student, VIEW), Frozen(Model(teacher, VIEW)), FACTS, batch(4))
    return SharedNoise(Kind(**options), roles)


def test_both_see_the_same_noise_and_are_compared_at_every_level():
    method, given = made(taps=["blocks.0", "blocks.1"], feature_weight=0.6, data_weight=0.2), batch()
    losses = method.update_student(given, torch.Generator().manual_seed(5))
    rng = torch.Generator().manual_seed(5)
    x = given["image"] * 2 - 1
    sigma = (-1.2 + 1.2 * torch.randn(16, generator=rng)).exp()
    x_t = x + sigma.view(-1, 1, 1, 1) * torch.randn(x.shape, generator=rng)
    own, target = (model(x_t, sigma, given["labels"]) for model in (method.student.module, method.teacher))
    scale = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    torch.testing.assert_close(losses["denoised"].values, scale * (own - target).square().mean((1, 2, 3)))
    torch.testing.assert_close(losses["denoising"].values, scale * (own - x).square().mean((1, 2, 3)))
    assert {name: loss.weight for name, loss in losses.items()} == {
        "denoised": 1.0, "blocks/0": 0.3, "blocks/1": 0.3, "denoising": 0.2,
    }  # fmt: skip
    assert losses["blocks/1"].values.shape == (16,)
    assert losses["blocks/1"].values.min() > 0


def test_told_the_same_in_its_own_words_the_student_is_the_teacher():
    """Where the adapter gives the teacher's embedding, every term is zero: the rest is the teacher's."""
    method = made(taps=["blocks.1"])
    adapter = method.student.module.network.label
    assert isinstance(adapter, Adapter)
    told = method.teacher.network.label.weight  # type: ignore[union-attr]
    hidden = adapter.mlp[:2](adapter.codes)  # [3, 12]
    with torch.no_grad():
        adapter.mlp[2].weight.copy_(torch.linalg.lstsq(hidden, told).solution.T)  # type: ignore[union-attr]
        adapter.mlp[2].bias.zero_()  # type: ignore[union-attr]
    for loss in method.update_student(batch(), torch.Generator().manual_seed(1)).values():
        torch.testing.assert_close(loss.values, torch.zeros(16), atol=1e-5, rtol=0)


def test_the_adapter_alone_is_trained_and_comes_to_say_what_the_table_says():
    method, given = made(taps=["blocks.0"]), batch()
    trained = [p for p in method.student.parameters() if p.requires_grad]
    adapter = method.student.module.network.label
    assert isinstance(adapter, Adapter)
    assert {id(p) for p in trained} == {id(p) for p in adapter.parameters()}
    optimizer, seen = torch.optim.Adam(trained, lr=1e-2), []
    for step in range(80):
        values = [
            loss.weight * loss.values.mean()
            for loss in method.update_student(given, torch.Generator().manual_seed(step)).values()
        ]
        optimizer.zero_grad()
        torch.stack(values).sum().backward()
        optimizer.step()
        seen.append(torch.stack(values).sum().item())
    assert sum(seen[-10:]) < 0.2 * sum(seen[:10])
    assert all(p.grad is None for p in method.teacher.parameters())


def test_a_code_is_the_words_own():
    assert torch.equal(code("zwei"), code("zwei"))
    assert code("zwei").square().mean().item() == pytest.approx(1.0)
    likeness = [torch.cosine_similarity(code("sieben"), code(word), dim=0).item() for word in ("siebente", "acht")]
    assert likeness[0] > 0.4 > likeness[1]


def test_a_word_is_needed_for_each_class():
    with pytest.raises(StillhouseError, match="2 words for 3 classes"):
        Prompted(of=PLAIN, words=["eins", "zwei"]).build(FACTS)
