"""Losses between features against loops in float64, their gradients, what they train, and small real runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillhouse.engine.checkpoint import read_summed
from stillhouse.errors import StillhouseError
from stillhouse.kinds import kinds
from stillhouse.objectives import codebook, feature_kinds, features, logit_kinds, projected_parts, projectors
from stillhouse.objectives import feature_parts as parts
from stillhouse.objectives.divergences import mse
from stillhouse.objectives.terms import Terms
from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe

Sides = Tensor | list[Tensor]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# By loops


def unit(row: list[float]) -> list[float]:
    size = math.sqrt(sum(v * v for v in row))
    return [v / size for v in row]


def joined(rows: list[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(rows))


def pooled(x: list[list[float]], size: int) -> list[list[float]]:
    """The mean of each block of a square map."""
    step = len(x) // size
    spots = list(product(range(step), range(step)))
    return [[sum(x[h * step + a][w * step + b] for a, b in spots) / step**2 for w in range(size)] for h in range(size)]


def flat_maps(x: Tensor, size: int | None = None) -> list[list[list[float]]]:
    """[B][C][H W], average-pooled to a size where one is given."""
    return [[joined(pooled(m, size or len(m))) for m in example] for example in x.tolist()]


def naive_attention(student: Tensor, teacher: Tensor, form: str, power: float, size: int) -> list[float]:
    values = []
    for ours, theirs in zip(flat_maps(student, size), flat_maps(teacher, size), strict=True):
        a, b = (unit([sum(abs(v) ** power for v in spot) for spot in zip(*x, strict=True)]) for x in (ours, theirs))
        squares = sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
        values.append(math.sqrt(squares) if form == "paper" else squares / len(a))
    return values


def dot(a: list[float], b: list[float]) -> float:
    return sum(p * q for p, q in zip(a, b, strict=True))


def vectors(x: Tensor) -> list[list[float]]:
    return x.reshape(len(x), -1).tolist()


def naive_similarity(student: Tensor, teacher: Tensor) -> float:
    """The paper's value, already averaged."""
    grams = [[unit([dot(a, b) for b in vectors(x)]) for a in vectors(x)] for x in (student, teacher)]
    batch = range(len(student))
    return sum((grams[0][i][j] - grams[1][i][j]) ** 2 for i, j in product(batch, batch)) / len(student) ** 2


def naive_pkt(student: Tensor, teacher: Tensor) -> list[float]:
    sides = []
    for x in (student, teacher):
        rows = [[(1 + dot(unit(a), unit(b))) / 2 for b in vectors(x)] for a in vectors(x)]
        sides.append([[v / sum(row) for v in row] for row in rows])
    q, p = sides
    return [sum(a * math.log((a + 1e-7) / (b + 1e-7)) for a, b in zip(p[i], q[i], strict=True)) for i in range(len(p))]


def naive_nst(student: Tensor, teacher: Tensor, kernel: str) -> list[float]:
    values = []
    for ours, theirs in zip(flat_maps(student), flat_maps(teacher), strict=True):
        a, b = [unit(x) for x in ours], [unit(x) for x in theirs]
        apart = [sum((p - q) ** 2 for p, q in zip(x, y, strict=True)) for x, y in product(b, b)]
        width = sum(apart) / len(apart)

        def k(x: list[float], y: list[float], width: float = width) -> float:
            if kernel == "gaussian":
                return math.exp(-sum((p - q) ** 2 for p, q in zip(x, y, strict=True)) / (2 * width))
            return dot(x, y) ** (2 if kernel == "polynomial" else 1)

        means = [
            sum(k(x, y) for x, y in product(one, two)) / (len(one) * len(two)) for one, two in ((a, a), (b, b), (a, b))
        ]
        values.append(means[0] + means[1] - 2 * means[2])
    return values


def naive_fsp(student: list[Tensor], teacher: list[Tensor]) -> list[float]:
    def flow(maps: list[Tensor], example: int) -> dict[tuple[int, int], float]:
        first, second = (flat_maps(x)[example] for x in maps)
        return {
            (i, j): dot(first[i], second[j]) / len(first[0]) for i, j in product(range(len(first)), range(len(second)))
        }

    values = []
    for example in range(len(student[0])):
        ours, theirs = flow(student, example), flow(teacher, example)
        values.append(sum((ours[at] - theirs[at]) ** 2 for at in ours))
    return values


def naive_ickd(student: Tensor, teacher: Tensor) -> list[float]:
    values = []
    for ours, theirs in zip(flat_maps(student), flat_maps(teacher), strict=True):
        a, b = ([unit([dot(p, q) for q in x]) for p in x] for x in (ours, theirs))
        values.append(sum((p - q) ** 2 for r, s in zip(a, b, strict=True) for p, q in zip(r, s, strict=True)) / len(a))
    return values


def naive_pyramid(student: Tensor, teacher: Tensor) -> list[float]:
    """The widths of 8: 8, 4, 2 and 1."""
    values = []
    for example in range(len(student)):
        total = 0.0
        for weight, size in zip((1, 1 / 2, 1 / 4, 1 / 8), (8, 4, 2, 1), strict=True):
            a, b = (joined(flat_maps(x, size)[example]) for x in (student, teacher))
            total += weight * sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / len(a)
        values.append(total / (1 + 1 / 2 + 1 / 4 + 1 / 8))
    return values


def naive_smooth_l1(student: Tensor, teacher: Tensor, beta: float) -> list[float]:
    values = []
    for ours, theirs in zip(student.movedim(1, -1).tolist(), teacher.movedim(1, -1).tolist(), strict=True):
        found = []
        for s, t in zip(joined(ours), joined(theirs), strict=True):
            mean = sum(t) / len(t)
            spread = math.sqrt(sum((v - mean) ** 2 for v in t) / len(t) + 1e-5)
            gaps = [abs(a - (b - mean) / spread) for a, b in zip(s, t, strict=True)]
            found += [d * d / (2 * beta) if d < beta else d - beta / 2 for d in gaps]
        values.append(sum(found) / len(found))
    return values


def close(values: Tensor, expected: list[float]) -> None:
    assert max(map(abs, expected)) > 1e-4, "nothing is compared"
    torch.testing.assert_close(values.detach().double(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("power", [2.0, 1.5])
def test_attention_transfer(form: Any, power: float) -> None:
    student, teacher = drawn(3, 2, 8, 8, seed=1), drawn(3, 5, 4, 4, seed=2)
    expected = naive_attention(student, teacher, form, power, 4)
    close(features.attention_transfer(student, teacher, form=form, power=power), expected)
    close(features.attention_transfer(teacher, student, form=form, power=power), expected)
    several = features.attention_transfer([student, student], [teacher, -teacher], form=form, power=power)
    close(several, [2 * value for value in expected])


def test_similarity_preserving_has_the_papers_scale() -> None:
    student, teacher = drawn(5, 3, 2, 2, seed=1), drawn(5, 7, seed=2)
    values = features.similarity_preserving(student, teacher)
    assert values.shape == (5,)
    assert values.mean().item() == pytest.approx(naive_similarity(student, teacher), rel=1e-9)
    torch.testing.assert_close(features.similarity_preserving(3 * student, teacher), values)


def test_pkt() -> None:
    student, teacher = drawn(5, 3, seed=1), drawn(5, 7, seed=2)
    close(features.probabilistic(student, teacher), naive_pkt(student, teacher))


@pytest.mark.parametrize("kernel", ["linear", "polynomial", "gaussian"])
def test_nst(kernel: Any) -> None:
    student, teacher = drawn(3, 4, 3, 3, seed=1), drawn(3, 6, 3, 3, seed=2)
    close(features.neuron_selectivity(student, teacher, kernel=kernel), naive_nst(student, teacher, kernel))


def test_nst_pools_the_larger_map() -> None:
    student, teacher = drawn(2, 3, 4, 4, seed=1), drawn(2, 5, 2, 2, seed=2)
    small = torch.nn.functional.avg_pool2d(student, 2)
    torch.testing.assert_close(
        features.neuron_selectivity(student, teacher), features.neuron_selectivity(small, teacher)
    )


def test_fsp() -> None:
    student = [drawn(3, 2, 3, 3, seed=1), drawn(3, 4, 3, 3, seed=2)]
    teacher = [drawn(3, 2, 3, 3, seed=3), drawn(3, 4, 3, 3, seed=4)]
    close(features.solution_flow(student, teacher), naive_fsp(student, teacher))
    wide = [torch.nn.functional.interpolate(student[0], scale_factor=2.0), student[1]]
    wide[0][..., ::2, ::2] -= 5  # the maximum of each block is still the small map
    close(features.solution_flow(wide, teacher), naive_fsp(student, teacher))
    with pytest.raises(StillhouseError, match="two taps"):
        features.solution_flow(student[:1], teacher[:1])
    with pytest.raises(StillhouseError, match="project: conv"):
        features.solution_flow(student, [drawn(3, 5, 3, 3), teacher[1]])


def test_ickd() -> None:
    student, teacher = drawn(3, 4, 3, 3, seed=1), drawn(3, 4, 5, 5, seed=2)
    close(features.inter_channel(student, teacher), naive_ickd(student, teacher))


def test_pyramid() -> None:
    student, teacher = drawn(2, 3, 8, 8, seed=1), drawn(2, 3, 8, 8, seed=2)
    close(features.pyramid(student, teacher), naive_pyramid(student, teacher))
    one = drawn(2, 3, 1, 1, seed=3), drawn(2, 3, 1, 1, seed=4)
    torch.testing.assert_close(features.pyramid(*one), mse(*one))  # no smaller level


def test_smooth_l1_on_standardised_features() -> None:
    student, teacher = drawn(2, 5, 3, 2, seed=1), 4 + 3 * drawn(2, 5, 3, 2, seed=2)
    close(features.standardised_smooth_l1(student, teacher, beta=0.7), naive_smooth_l1(student, teacher, 0.7))
    tokens = features.standardised_smooth_l1(student.flatten(2).mT, teacher.flatten(2).mT, beta=0.7)
    close(tokens, naive_smooth_l1(student, teacher, 0.7))


def test_cosine() -> None:
    student, teacher = drawn(2, 3, 4, seed=1), drawn(2, 3, 4, seed=2)
    expected = [
        sum(1 - dot(unit(a), unit(b)) for a, b in zip(ours, theirs, strict=True)) / 3
        for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    close(features.cosine(student, teacher), expected)
    close(features.cosine(student.mT.unsqueeze(-1), teacher.mT.unsqueeze(-1)), expected)  # channels second in a map
    torch.testing.assert_close(features.cosine(student, -student), torch.full((2,), 2.0, dtype=torch.float64))


def test_all_bands_together_are_the_mean_squared_difference() -> None:
    student, teacher = drawn(2, 3, 8, 4, seed=1), drawn(2, 3, 8, 4, seed=2)
    for levels in (1, 2):
        both = features.frequency_bands(student, teacher, levels=levels, low=1.0, high=1.0)
        torch.testing.assert_close(both, mse(student, teacher))  # Parseval
        low = features.frequency_bands(student, teacher, levels=levels, low=1.0, high=0.0)
        blocks = torch.nn.functional.avg_pool2d(student - teacher, 2**levels)
        torch.testing.assert_close(low, mse(blocks, torch.zeros_like(blocks)))  # the low band is what pooling keeps
    with pytest.raises(StillhouseError, match="fewer `levels`"):
        features.frequency_bands(student, teacher, levels=3)


# What holds of every function

MAPS = (2, 3, 4, 4)
FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Sides, Sides]] = {
    "attention code": (features.attention_transfer, drawn(*MAPS), drawn(*MAPS, seed=1)),
    "attention paper": (partial(features.attention_transfer, form="paper"), drawn(*MAPS), drawn(*MAPS, seed=1)),
    "similarity": (features.similarity_preserving, drawn(4, 3), drawn(4, 3, seed=1)),
    "pkt": (features.probabilistic, drawn(4, 3), drawn(4, 3, seed=1)),
    "nst linear": (partial(features.neuron_selectivity, kernel="linear"), drawn(*MAPS), drawn(*MAPS, seed=1)),
    "nst polynomial": (features.neuron_selectivity, drawn(*MAPS), drawn(*MAPS, seed=1)),
    "nst gaussian": (partial(features.neuron_selectivity, kernel="gaussian"), drawn(*MAPS), drawn(*MAPS, seed=1)),
    "fsp": (features.solution_flow, [drawn(*MAPS), drawn(*MAPS, seed=2)], [drawn(*MAPS, seed=1), drawn(*MAPS, seed=3)]),
    "ickd": (features.inter_channel, drawn(*MAPS), drawn(*MAPS, seed=1)),
    "cosine": (features.cosine, drawn(*MAPS), drawn(*MAPS, seed=1)),
    "smooth l1": (features.standardised_smooth_l1, drawn(*MAPS), drawn(*MAPS, seed=1)),
    "bands": (partial(features.frequency_bands, low=0.5), drawn(*MAPS), drawn(*MAPS, seed=1)),
    "pyramid": (features.pyramid, drawn(*MAPS), drawn(*MAPS, seed=1)),
}
every = pytest.mark.parametrize("name", FUNCTIONS)


def listed(sides: Sides) -> list[Tensor]:
    return [sides] if isinstance(sides, Tensor) else sides


def copied(sides: Sides, **to: Any) -> Sides:
    made = [x.clone().to(**to).requires_grad_() if to else x.clone().requires_grad_() for x in listed(sides)]
    return made[0] if isinstance(sides, Tensor) else made


@every
def test_gradients_of_the_student(name: str) -> None:
    loss, student, teacher = FUNCTIONS[name]

    def values(*inputs: Tensor) -> Tensor:
        return loss(inputs[0] if isinstance(student, Tensor) else list(inputs), teacher)

    assert torch.autograd.gradcheck(values, tuple(listed(copied(student))))


@every
def test_no_gradient_reaches_the_teacher_and_identical_sides_give_none(name: str) -> None:
    loss, student, teacher = FUNCTIONS[name]
    ours, theirs = copied(student), copied(teacher)
    value = loss(ours, theirs)
    assert value.shape == (len(listed(student)[0]),)
    assert value.min() > 0
    value.sum().backward()
    assert all(x.grad is not None and x.grad.abs().max() > 1e-4 for x in listed(ours))
    assert all(x.grad is None for x in listed(theirs))
    same = features.standardised(torch.randn(2, 4, 4, 3)).movedim(-1, 1) if name == "smooth l1" else student
    ours = copied(same)
    value = loss(ours, same)
    torch.testing.assert_close(value, torch.zeros_like(value), atol=2e-5, rtol=0)
    for gradient in torch.autograd.grad(value.sum(), listed(ours)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=2e-4, rtol=0)


@every
def test_half_precision_is_computed_in_fp32(name: str) -> None:
    loss, student, teacher = FUNCTIONS[name]
    ours, theirs = copied(student, dtype=torch.bfloat16), copied(teacher, dtype=torch.bfloat16)
    exact = loss(copied(ours, dtype=torch.float64), copied(theirs, dtype=torch.float64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(ours, theirs)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=2e-5, atol=1e-6)


def test_counts_of_layers_must_fit() -> None:
    with pytest.raises(StillhouseError, match="2 of the student's layers"):
        features.attention_transfer([drawn(*MAPS), drawn(*MAPS)], [drawn(*MAPS)])
    with pytest.raises(StillhouseError, match=r"feature maps \[B, C, H, W\]"):
        features.attention_transfer(drawn(2, 3), drawn(2, 3))


def test_a_hint_through_a_one_by_one_convolution() -> None:
    """FitNets (Romero et al. 2015): by `mse` with `project: conv`, which can make up for any mixing of channels."""
    student = drawn(4, 6, 3, 3, seed=1, dtype=torch.float32)
    mixing = drawn(6, 9, seed=2, dtype=torch.float32)
    teacher = torch.einsum("bchw,cd->bdhw", student, mixing)
    through = projectors.projector("conv", student, teacher)
    assert isinstance(through, nn.Conv2d)
    with torch.no_grad():
        through.weight.copy_(mixing.T[:, :, None, None])
    torch.testing.assert_close(mse(through(student), teacher), torch.zeros(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(6, 4, 5, 5), (6, 7)])
def test_an_exit_leads_from_features_to_the_teachers_logits_and_is_trained_with_the_student(
    shape: tuple[int, ...],
) -> None:
    """One-for-all (Hao et al. 2023): the branch is a part of the term, and answers alone."""
    kind = logit_kinds.TargetEnhanced(signal="features.mid", teacher_signal="logits", project="exit")
    (term,) = Terms([kind])
    student = {"features.mid": drawn(*shape, dtype=torch.float32).requires_grad_(), "logits": torch.zeros(6, 3)}
    teacher, labels = {"logits": 3 * drawn(6, 3, seed=1, dtype=torch.float32)}, torch.arange(6) % 3
    part = term.part(student, teacher)
    assert part is not None
    assert part[0](student["features.mid"]).shape == (6, 3)  # type: ignore[index]
    optimizer, losses = torch.optim.Adam(part.parameters(), lr=0.02), []
    for _ in range(60):
        loss = term(student, teacher, labels, None, parts={term.name: part})
        assert loss.values.shape == (6,)
        optimizer.zero_grad()
        loss.values.mean().backward()
        optimizer.step()
        losses.append(loss.values.mean().item())
    assert losses[-1] < 0.7 * losses[0]
    assert student["features.mid"].grad is not None
    with pytest.raises(StillhouseError, match="project: exit"):
        projectors.projector("exit", drawn(2, 3, 4), drawn(2, 3))


# Losses that train parts of their own

NARROW, WIDE = drawn(4, 3, 4, 4, seed=1), drawn(4, 5, 4, 4, seed=2)
DEEP = [NARROW, drawn(4, 6, 2, 2, seed=3), drawn(4, 6, seed=4)], [WIDE, drawn(4, 8, 2, 2, seed=5), drawn(4, 8, seed=6)]
MODULES: dict[str, tuple[Callable[..., nn.Module], Sides, Sides]] = {
    "factor transfer": (parts.FactorTransfer, NARROW, WIDE),
    "activation boundary": (parts.ActivationBoundary, NARROW, WIDE),
    "vid": (parts.VariationalInformation, NARROW, WIDE),
    "overhaul": (parts.Overhaul, NARROW, WIDE),
    "review": (parts.KnowledgeReview, *DEEP),
    "semckd": (partial(parts.SemanticCalibration, batch_size=4), DEEP[0][:2], DEEP[1]),
    "vkd": (projected_parts.OrthogonalProjection, NARROW, WIDE),
    "ensemble": (projected_parts.ProjectorEnsemble, NARROW, WIDE),
    "ladder": (partial(projected_parts.LadderProjector, hidden=7), DEEP[0], WIDE),
    "masked generation": (parts.MaskedGeneration, NARROW, WIDE),
    "codes": (codebook.Codes, NARROW, WIDE),
    "cross-layer": (partial(parts.CrossLayerAttention, width=8), DEEP[0][:2], DEEP[1][:2]),
}
each = pytest.mark.parametrize("name", MODULES)


def built(name: str) -> tuple[nn.Module, Sides, Sides]:
    torch.manual_seed(0)
    make, student, teacher = MODULES[name]
    return make(student, teacher).double(), student, teacher


def seeded(loss: nn.Module, *sides: Sides) -> Tensor:
    torch.manual_seed(1)
    return loss(*sides)


@each
def test_parts_and_student_get_gradients_and_the_teacher_none(name: str) -> None:
    loss, student, teacher = built(name)
    ours, theirs = copied(student), copied(teacher)
    value = seeded(loss, ours, theirs)
    assert value.shape == (4,)
    assert value.isfinite().all()
    value.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 1e-4 for p in loss.parameters())
    assert all(x.grad is not None and x.grad.abs().max() > 1e-5 for x in listed(ours))
    assert all(x.grad is None for x in listed(theirs))


@each
def test_gradients_through_the_parts(name: str) -> None:
    loss, student, teacher = built(name)
    loss.eval()

    def values(*inputs: Tensor) -> Tensor:
        return seeded(loss, inputs[0] if isinstance(student, Tensor) else list(inputs), teacher)

    assert torch.autograd.gradcheck(values, tuple(listed(copied(student))), fast_mode=True)


@each
def test_a_few_steps_lower_the_loss(name: str) -> None:
    loss, student, teacher = built(name)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    start = seeded(loss, student, teacher).mean().item()
    for _ in range(30):
        optimizer.zero_grad()
        seeded(loss, student, teacher).mean().backward()
        optimizer.step()
    assert seeded(loss, student, teacher).mean().item() < start - 0.02 * abs(start)


@each
@pytest.mark.parametrize("sides", [((4, 5, 4, 4), (4, 5, 4, 4)), ((4, 7, 8, 8), (4, 3, 2, 2)), ((4, 3), (4, 9))])
def test_shapes(name: str, sides: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    make = MODULES[name][0]
    student, teacher = drawn(*sides[0], dtype=torch.float32), drawn(*sides[1], seed=1, dtype=torch.float32)
    ours, theirs = ([student], [teacher]) if isinstance(MODULES[name][1], list) else (student, teacher)
    loss = make(ours, teacher if name == "ladder" else theirs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(ours, teacher if name == "ladder" else theirs)
    assert value.shape == (4,)
    assert value.dtype == torch.float32


def passing(connector: nn.Module) -> None:
    """Make a 1 x 1 convolution and batch norm give what they are given."""
    assert isinstance(connector, nn.Sequential)
    convolution = connector[0]
    assert isinstance(convolution, nn.Conv2d)
    with torch.no_grad():
        nn.init.dirac_(convolution.weight)
    connector[1] = nn.Identity()


def test_activation_boundary_by_hand() -> None:
    student = torch.tensor([[-2.0, -0.5, 0.5, 2.0] * 2])
    teacher = torch.tensor([[3.0] * 4 + [-3.0] * 4])
    loss = parts.ActivationBoundary(student, teacher, margin=1.0)
    passing(loss.connect)
    on, off = 9 + 2.25 + 0.25, 0.25 + 2.25 + 9  # relu(1 - s)^2 where the teacher is on, relu(1 + s)^2 elsewhere
    assert loss(student, teacher).item() == pytest.approx(on + off)


def test_overhaul_by_hand() -> None:
    student = torch.tensor([[1.0, -3.0], [0.5, -1.0], [-4.0, -0.5], [2.0, 7.0]])
    teacher = torch.tensor([[2.0, -1.0], [-1.0, -2.0], [-3.0, -6.0], [-5.0, 4.0]])
    loss = parts.Overhaul(student, teacher)
    passing(loss.connect)
    # The margins, E[t | t < 0], are -3 twice: the teacher gives [2, -1], [-1, -2], [-3, -3], [-3, 4].
    expected = [1 + 0, 2.25 + 1, 0 + 6.25, 25 + 9]
    assert loss(student, teacher).tolist() == pytest.approx(expected)
    loss.eval()
    assert loss(student, torch.full_like(teacher, -50.0)).tolist() == pytest.approx([16, 12.25 + 4, 6.25, 25 + 100])


def test_vid_is_a_gaussian_likelihood() -> None:
    loss, student, teacher = built("vid")
    assert isinstance(loss, parts.VariationalInformation)
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    deviation = torch.nn.functional.softplus(loss.scale).add(1e-5).sqrt().view(1, -1, 1, 1)
    torch.testing.assert_close(deviation.mean().item(), math.sqrt(5), rtol=1e-4, atol=0)
    likelihood = torch.distributions.Normal(loss.mean(student), deviation).log_prob(teacher)
    expected = -(likelihood + math.log(2 * math.pi) / 2).flatten(1).mean(1)
    torch.testing.assert_close(loss(student, teacher), expected)


def test_factors_do_not_move_the_paraphraser() -> None:
    """Only its own reconstruction does: what is told to the student must not be bent to it."""
    loss, student, teacher = built("factor transfer")
    loss.eval()
    assert isinstance(student, Tensor)
    moves = []
    for ours in (student, -3 * student):
        loss.zero_grad()
        loss(ours, teacher).sum().backward()
        moves.append(torch.cat([p.grad.flatten() for n, p in loss.named_parameters() if n.startswith("encoder")]))  # type: ignore[union-attr]
    torch.testing.assert_close(moves[0], moves[1])
    assert moves[0].abs().max() > 1e-4


def test_review_without_fusion_is_the_pyramid_of_the_last_layer() -> None:
    """The last layer sees no other; an earlier one sees what came from it."""
    loss, student, teacher = built("review")
    assert isinstance(loss, parts.KnowledgeReview)
    loss.eval()
    ours, theirs = copied(student), listed(teacher)
    assert isinstance(ours, list)
    last = parts.as_map(ours[-1])
    expected = features.pyramid(loss.outward[-1](loss.inward[-1](last)), parts.as_map(theirs[-1]))
    held_at = [theirs[0] + 1000, theirs[1], theirs[2]]
    (gradient,) = torch.autograd.grad(loss(ours, held_at).sum(), ours[-1], retain_graph=True)
    (alone,) = torch.autograd.grad(expected.sum(), ours[-1])
    assert (gradient - alone).abs().max() > 1
    only = parts.KnowledgeReview(ours[-1:], theirs[-1:]).double().eval()
    only.inward[0], only.outward[0] = loss.inward[-1], loss.outward[-1]
    torch.testing.assert_close(only(ours[-1:], theirs[-1:]), expected)


def test_review_fuses_a_layer_with_what_came_from_the_deeper_one() -> None:
    """Two layers with bare operations: normed convolutions, the deeper one repeated upwards, weighed by two maps."""
    ours, theirs = ([drawn(3, 4, 4, 4, seed=s), drawn(3, 6, 2, 2, seed=s + 1)] for s in (1, 3))
    loss = parts.KnowledgeReview(ours, theirs).double()
    state = loss.state_dict()

    def normed(x: Tensor, name: str) -> Tensor:
        y = nn.functional.conv2d(x, state[f"{name}.0.weight"], padding=state[f"{name}.0.weight"].shape[-1] // 2)
        variance, mean = torch.var_mean(y, (0, 2, 3), correction=0, keepdim=True)
        return (y - mean) / (variance + 1e-5).sqrt()

    deep, own = normed(ours[1], "inward.1"), normed(ours[0], "inward.0")
    raised = deep.repeat_interleave(2, 2).repeat_interleave(2, 3)
    both = torch.cat([own, raised], 1)
    maps = torch.einsum("oc,bchw->bohw", state["attention.0.weight"][:, :, 0, 0], both)
    maps = 1 / (1 + (-maps - state["attention.0.bias"].view(1, 2, 1, 1)).exp())
    fused = own * maps[:, :1] + raised * maps[:, 1:]
    expected = features.pyramid(normed(deep, "outward.1"), theirs[1])
    torch.testing.assert_close(loss(ours, theirs), expected + features.pyramid(normed(fused, "outward.0"), theirs[0]))


def test_calibration_weighs_distances_by_shares() -> None:
    loss, student, teacher = built("semckd")
    assert isinstance(loss, parts.SemanticCalibration)
    loss.eval()
    ours, theirs = listed(student), listed(teacher)
    shares = loss.shares(ours, theirs)
    torch.testing.assert_close(shares.sum(2), torch.ones(4, 2, dtype=torch.float64))
    expected = torch.zeros(4, dtype=torch.float64)
    for i, j in product(range(2), range(3)):
        size = min(ours[i].shape[-1] if ours[i].dim() == 4 else 1, theirs[j].shape[-1] if theirs[j].dim() == 4 else 1)
        a, b = (nn.functional.adaptive_avg_pool2d(parts.as_map(x), size) for x in (ours[i], theirs[j]))
        expected += shares[:, i, j] * (loss.maps[i][j](a) - b).square().mean((1, 2, 3)) / 2  # type: ignore[index]
    torch.testing.assert_close(loss(student, teacher), expected)
    assert loss([x[:3] for x in ours], [x[:3] for x in theirs]).shape == (3,)
    with pytest.raises(StillhouseError, match="batch_size 4 and got a batch of 8"):
        loss([torch.cat([x, x]) for x in ours], [torch.cat([x, x]) for x in theirs])


@pytest.mark.parametrize("widths", [(3, 5), (5, 3), (4, 4)])
def test_the_orthogonal_projector_stays_orthogonal(widths: tuple[int, int]) -> None:
    student, teacher = drawn(8, widths[0], seed=1), drawn(8, widths[1], seed=2)
    loss = projected_parts.OrthogonalProjection(student, teacher).double()
    optimizer = torch.optim.SGD(loss.parameters(), lr=1.0)
    assert isinstance(loss.project, nn.Linear)
    before = loss.project.weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        loss(student, teacher).mean().backward()
        optimizer.step()
    weight = loss.project.weight.detach()
    assert (weight - before).abs().max() > 1e-2
    gram = weight @ weight.T if widths[0] >= widths[1] else weight.T @ weight
    torch.testing.assert_close(gram, torch.eye(min(widths), dtype=torch.float64), atol=2e-6, rtol=0)


def test_whitened_targets_have_the_identity_as_covariance_and_stay_as_they_lie() -> None:
    """ZCA is the whitening nearest to the features themselves: its matrix is symmetric with positive eigenvalues."""
    teacher = drawn(400, 6, seed=2) @ drawn(6, 6, seed=3) + 4
    found = features.whitened(teacher, eps=1e-9)
    torch.testing.assert_close(found.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.T @ found / 400, torch.eye(6, dtype=torch.float64), atol=1e-6, rtol=0)
    centred = teacher - teacher.mean(0)
    matrix = torch.linalg.lstsq(centred, found).solution
    torch.testing.assert_close(matrix, matrix.T)
    assert (torch.linalg.eigvalsh(matrix) > 0).all()
    few = features.whitened(drawn(3, 8, seed=4))  # fewer examples than directions
    assert few.isfinite().all()
    loss = projected_parts.OrthogonalProjection(drawn(9, 4, seed=1), drawn(9, 6, seed=2), targets="whitened").double()
    student, target = drawn(9, 4, seed=1), drawn(9, 6, seed=2)
    expected = nn.functional.smooth_l1_loss(loss.project(student), features.whitened(target), reduction="none").mean(1)
    torch.testing.assert_close(loss(student, target), expected)


def test_an_ensemble_is_the_mean_before_the_angle() -> None:
    loss, student, teacher = built("ensemble")
    assert isinstance(loss, projected_parts.ProjectorEnsemble)
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    means = sum(torch.relu(p(student.mean((2, 3)))) for p in loss.projectors) / 3
    cosines = nn.functional.cosine_similarity(torch.as_tensor(means), teacher.mean((2, 3)))
    torch.testing.assert_close(loss(student, teacher), 1 - cosines)


def test_a_ladder_sums_its_rungs_and_follows_the_teachers_statistics() -> None:
    loss, student, teacher = built("ladder")
    assert isinstance(loss, projected_parts.LadderProjector)
    assert isinstance(teacher, Tensor)
    found = loss(student, teacher)
    pooled_teacher = teacher.mean((2, 3))
    torch.testing.assert_close(loss.mean, pooled_teacher.mean(0))
    torch.testing.assert_close(loss.variance, pooled_teacher.var(0, correction=0))
    target = (pooled_teacher - loss.mean) / (loss.variance + 1e-6).sqrt()
    climbed = sum(
        rung(x.mean((2, 3)) if x.dim() == 4 else x) for rung, x in zip(loss.rungs, listed(student), strict=True)
    )
    ours = torch.as_tensor(climbed)
    apart = (ours - target).abs()
    smooth = torch.where(apart < 1, apart.square() / 2, apart - 0.5).mean(1)
    torch.testing.assert_close(found, (1 - nn.functional.cosine_similarity(ours, target)) / 2 + smooth / 2)
    loss(student, teacher + 10)
    torch.testing.assert_close(loss.mean, pooled_teacher.mean(0) + 0.1)


def test_a_codebook_follows_the_teacher_and_its_codes_are_named() -> None:
    """By hand: two codes on a line, and what a batch does to them."""
    first = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    loss = codebook.Codes(torch.zeros(2, 3), first, codes=2, momentum=0.75)
    student = drawn(2, 3, dtype=torch.float32)

    def expected(code: list[int]) -> Tensor:
        return -loss.name(student).log_softmax(-1).gather(1, torch.tensor(code).unsqueeze(1)).squeeze(1)

    torch.testing.assert_close(loss(student, first), expected([0, 1]))
    torch.testing.assert_close(loss.sums, first)  # each code has the one vector that it began with
    both = torch.tensor([[4.0, 0.0], [2.0, 6.0]])
    torch.testing.assert_close(loss(student, both), expected([0, 0]))
    torch.testing.assert_close(loss.counts, torch.tensor([0.75 + 0.25 * 2, 0.75]))
    torch.testing.assert_close(loss.sums, torch.tensor([[0.25 * 6, 0.25 * 6], [0.75 * 10, 0.0]]))
    assert loss.coded(torch.tensor([[5.7, 0.0], [5.4, 0.0]])).tolist() == [1, 0]  # between (1.2, 1.2) and (10, 0)
    before = loss.sums.clone()
    loss.eval()(student, both)
    assert torch.equal(loss.sums, before)


def test_a_book_with_more_codes_than_the_batch_has_vectors_fills_up() -> None:
    vectors = torch.arange(6.0).unsqueeze(1) * 10
    loss = codebook.Codes(torch.zeros(4, 3), vectors[:4], codes=6)
    loss(torch.zeros(4, 3), vectors[:4])
    assert loss.coded(vectors).tolist() == [0, 1, 2, 3, 3, 3]  # an empty code is nobody's, not even at the origin
    loss(torch.zeros(2, 3), vectors[4:])
    assert loss.coded(vectors).tolist() == [0, 1, 2, 3, 4, 5]


def test_tokens_are_coded_place_by_place() -> None:
    student, tokens = drawn(2, 3, 4, dtype=torch.float32), drawn(2, 3, 5, seed=1, dtype=torch.float32)
    loss = codebook.Codes(student, tokens, codes=6)
    value = loss(student, tokens)
    flat = -loss.name(student.flatten(0, 1)).log_softmax(-1).diagonal()  # every place its own code
    torch.testing.assert_close(value, flat.view(2, 3).mean(1))
    with pytest.raises(StillhouseError, match="place by place"):
        codebook.Codes(student, tokens[:, :2])


@pytest.mark.parametrize(("over", "kept"), [("positions", (8, 1, 16, 16)), ("channels", (8, 16, 1, 1))])
def test_a_mask_hides_whole_positions_or_channels(over: str, kept: tuple[int, ...]) -> None:
    student = torch.ones(8, 16, 16, 16)
    loss = parts.MaskedGeneration(student, torch.zeros_like(student), mask=0.75, over=over)
    seen: list[Tensor] = []
    loss.generate.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    value = loss(student, torch.zeros_like(student))
    mask = seen[0].amax([at for at, size in enumerate(kept) if size == 1], keepdim=True)
    assert tuple(mask.shape) == kept
    torch.testing.assert_close(seen[0], mask.expand_as(student))
    assert mask.mean().item() == pytest.approx(0.25, abs=0.1)
    torch.testing.assert_close(value, loss.generate(seen[0]).square().sum((1, 2, 3)))
    assert not torch.equal(value, loss(student, torch.zeros_like(student))), "the mask is drawn anew"


def test_cross_layer_shares_sum_over_the_students_layers() -> None:
    loss, student, teacher = built("cross-layer")
    assert isinstance(loss, parts.CrossLayerAttention)
    ours, theirs = listed(student), listed(teacher)
    shares = loss.shares(ours, theirs)
    torch.testing.assert_close(shares.sum(2), torch.ones(4, 2, dtype=torch.float64))
    expected = torch.zeros(4, dtype=torch.float64)
    for t, i in product(range(2), range(2)):
        size = theirs[t].shape[-1]
        seen = ours[i].square().mean(1, keepdim=True).repeat_interleave(4, 2).repeat_interleave(4, 3)
        seen = nn.functional.avg_pool2d(seen, seen.shape[-1] // size)
        a, b = (x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True) for x in (seen, theirs[t].square().mean(1)))
        expected += shares[:, t, i] * (a - b).square().sum(1) / size**2
    torch.testing.assert_close(loss(student, teacher), expected)


# In recipes

STUDENT = ["features.conv2", "features.conv3"]
TEACHER = ["features.layer2", "features.layer3"]
LAST = {"signal": STUDENT[1], "teacher_signal": TEACHER[1]}
BOTH = {"signal": STUDENT, "teacher_signal": TEACHER}
TERMS: dict[str, dict[str, Any]] = {
    "attention_transfer": BOTH,
    "similarity_preserving": BOTH,
    "pkt": LAST,
    "nst": BOTH | {"kernel": "gaussian"},
    "fsp": BOTH | {"project": "conv"},
    "ickd": LAST | {"project": "conv"},
    "cosine": LAST | {"project": "conv"},
    "smooth_l1": LAST | {"project": "conv"},
    "unit_correlation": LAST | {"project": "conv"},
    "frequency_bands": LAST | {"project": "conv"},
    "frequency_prompts": LAST | {"classes": 10},
    "mse": LAST | {"project": "conv"},
    "factor_transfer": LAST,
    "activation_boundary": LAST,
    "vid": LAST,
    "overhaul": LAST,
    "knowledge_review": BOTH,
    "semckd": BOTH | {"batch_size": 8},
    "vkd": LAST,
    "projector_ensemble": LAST,
    "ladder": {"signal": STUDENT, "teacher_signal": TEACHER[1], "hidden": 8},
    "masked_generation": LAST,
    "codes": LAST | {"codes": 5},
    "cross_layer_attention": BOTH,
}


def test_every_kind_of_the_module_is_run_below() -> None:
    own = {name for name, kind in kinds("term").items() if kind.__module__ == feature_kinds.__name__}
    assert own == set(TERMS) - {"mse"}


def recipe(terms: list[dict[str, Any]]) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "features",
            "data": "digits",
            "teacher": {"network": {"kind": "resnet", "depth": 8, "width": 8}},
            "student": {"network": {"kind": "convnet", "width": 4}},
            "method": {"kind": "match", "terms": [*terms, {"signal": "labels", "by": "cross_entropy", "weight": 1e-6}]},
            "train": {"steps": 1, "batch_size": 8},
            "control": False,
        }
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The student after a step on labels alone."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    distill(recipe([]), out=folder, device="cpu", progress=False)
    return exported(folder)


def exported(folder: Path) -> dict[str, Tensor]:
    kept = read_summed(folder / "stages", "student")
    assert kept is not None
    return kept["network"]


@pytest.mark.parametrize("by", TERMS)
def test_a_step_of_a_real_run(by: str, tmp_path: Path, plain: dict[str, Tensor]) -> None:
    distill(recipe([{"by": by} | TERMS[by]]), out=tmp_path / "run", device="cpu", progress=False)
    student = exported(tmp_path / "run")
    assert student.keys() == plain.keys()
    assert not torch.equal(student["conv2.weight"], plain["conv2.weight"])
    assert all(tensor.isfinite().all() for tensor in student.values() if tensor.is_floating_point())
