"""FreeKD's masks on frequency bands, against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from stillhouse.errors import StillhouseError
from stillhouse.objectives.bands import FrequencyPrompts, unhaar
from stillhouse.objectives.features import haar

LABELS = torch.tensor([0, 2, 1])


def maps(channels: int, size: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(3, channels, size, size, generator=rng, dtype=torch.float64)


def built(student: Tensor, teacher: Tensor, **options: int) -> FrequencyPrompts:
    torch.manual_seed(0)
    module = FrequencyPrompts(student, teacher, classes=3, **options).double()
    with torch.no_grad():
        module.prompts.mul_(100)  # so that the masks differ from a half, and from each other
    return module


def basis(size: int, levels: int) -> list[Tensor]:
    """Per level the three kinds of high wavelets of a map, then the low ones: [kinds, h w, size, size]."""
    found = []
    for level in range(1, levels + 1):
        width = 2**level
        flat = torch.ones(width, dtype=torch.float64)
        step = torch.cat([flat[: width // 2], -flat[width // 2 :]])
        shapes = [(flat, step), (step, flat), (step, step)]
        found.append(torch.stack([_tiles(torch.outer(a, b) / width, size) for a, b in shapes]))
    return [*found, _tiles(torch.ones(width, width, dtype=torch.float64) / width, size)[None]]


def _tiles(wavelet: Tensor, size: int) -> Tensor:
    width, tiles = len(wavelet), []
    for row in range(0, size, width):
        for column in range(0, size, width):
            tile = torch.zeros(size, size, dtype=torch.float64)
            tile[row : row + width, column : column + width] = wavelet
            tiles.append(tile)
    return torch.stack(tiles)


def test_a_transformed_map_is_put_together_again() -> None:
    whole = maps(2, 4, seed=1)
    low, *high = haar(whole)
    torch.testing.assert_close(unhaar(low, torch.stack(high, 1)), whole)


@torch.no_grad()
@pytest.mark.parametrize("levels", [1, 2])
def test_the_value_equals_the_loops_over_wavelets(levels: int) -> None:
    student, teacher = maps(2, 8, seed=2), maps(4, 4, seed=3)
    module = built(student, teacher, prompts=3, levels=levels)
    ours = module.align(student).unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
    for i in range(3):
        value, masked = 0.0, torch.zeros(4, 4, 4, dtype=torch.float64)
        for number, wavelets in enumerate(basis(4, levels)):
            one, two = (torch.einsum("chw,kphw->kcp", side[i], wavelets) for side in (ours, teacher))
            masks = torch.tensor(
                [
                    [
                        1 / (1 + math.exp(-sum(float(p[c] * two[:, c, at].sum()) for c in range(4))))
                        for at in range(two.shape[2])
                    ]
                    for p in module.prompts[number]
                ],
                dtype=torch.float64,
            )
            pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
            dice = [2 * masks[a] @ masks[b] / (masks[a] @ masks[a] + masks[b] @ masks[b]) for a, b in pairs]
            value += float(sum(dice)) / len(pairs)
            if number < levels:
                value += float(torch.stack([(mask * one - mask * two).abs().mean() for mask in masks]).mean())
            masked += torch.einsum("kcp,p,kphw->chw", two, masks.sum(0), wavelets)
        log_p = module.read(masked[None])[0].log_softmax(0)
        assert float(module(student, teacher, labels=LABELS)[i]) == pytest.approx(value - float(log_p[LABELS[i]]))


def test_prompts_learn_the_task_and_the_student_the_bands() -> None:
    student, teacher = maps(2, 4, seed=4).requires_grad_(), maps(3, 4, seed=5).requires_grad_()
    module = built(student, teacher)
    module(student, teacher, labels=LABELS).sum().backward()
    assert teacher.grad is None
    assert module.align.weight.grad is not None
    found = module.prompts.grad
    assert found is not None
    assert (found.abs().amax((1, 2)) > 1e-6).all(), "the masks of high and of low bands matter to the task"
    other = built(student, teacher)
    other(torch.zeros_like(student), teacher, labels=LABELS).sum().backward()
    assert other.prompts.grad is not None
    torch.testing.assert_close(found, other.prompts.grad)  # whatever the student's map is
    for parameter in (*module.read.parameters(), module.prompts):
        parameter.requires_grad_(False)
    assert torch.autograd.gradcheck(lambda s: module(s, teacher, labels=LABELS), (student,))


def test_the_low_band_of_the_student_does_not_count() -> None:
    student, teacher = maps(3, 4, seed=6), maps(3, 4, seed=7)
    module = built(student, teacher)
    assert isinstance(module.align, nn.Conv2d)
    expected = module(student, teacher, labels=LABELS)
    torch.testing.assert_close(module(student + 3, teacher, labels=LABELS), expected)


def test_a_single_prompt_has_none_to_be_kept_apart_from() -> None:
    student, teacher = maps(3, 4, seed=6), maps(3, 4, seed=7)
    value = built(student, teacher, prompts=1)(student, teacher, labels=LABELS)
    assert value.isfinite().all()
    assert (value > 0).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(StillhouseError, match="fewer `levels`"):
        built(maps(2, 4, seed=0), maps(2, 4, seed=0), levels=3)
    with pytest.raises(StillhouseError, match="feature maps"):
        built(torch.zeros(3, 2), torch.zeros(3, 2))
    module = built(maps(2, 4, seed=0), maps(2, 4, seed=0))
    with pytest.raises(StillhouseError, match="one class an example"):
        module(maps(2, 4, seed=0), maps(2, 4, seed=0), labels=torch.zeros(3, 2))
