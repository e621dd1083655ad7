"""Gaussian processes that learn from themselves, against closed forms in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.methods.online_kinds import Gaussian
from stillhouse.methods.roles import Roles
from stillhouse.networks.gp import GaussianProcess as Network
from stillhouse.networks.kinds import MLP, GaussianProcess
from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.kinds import Row
from stillhouse.views.model import Model
from stillhouse.views.row import RowView

COUNT, FACTS = 20, Facts("regression", (1,), 1)
RNG = torch.Generator().manual_seed(0)
X = torch.linspace(-2, 2, COUNT).unsqueeze(1)
Y = torch.sin(2 * X) + 0.3 * torch.randn(COUNT, 1, generator=RNG)
GRID = torch.linspace(-2.5, 2.5, 33).unsqueeze(1)
NOISES = [0.3, 0.1, 0.5, 0.2]


def batch() -> dict[str, Tensor]:
    return {"index": torch.arange(COUNT), "features": X, "labels": Y}


def process(noise: float, points: int = COUNT * len(NOISES)) -> Model:
    kind = GaussianProcess(points=points, lengthscale=0.6, amplitude=1.3, noise=noise)
    return Model(kind.build(FACTS), RowView(Row()))


def network(model: Model) -> Network:
    assert isinstance(model.network, Network)
    return model.network


def fitted(noise: float, teacher: Model | None = None, points: int = COUNT * len(NOISES), **options) -> Model:
    """What one step of the engine leaves."""
    student = process(noise, points)
    frozen = None if teacher is None else Frozen(teacher)
    method = Gaussian(**options).build(Roles(student, frozen, FACTS, batch()))
    (turn,) = method.schedule()
    (loss,) = turn.losses(batch(), torch.Generator()).values()
    (loss.weight * loss.values.mean()).backward()
    with torch.no_grad():
        weights = network(student).weights
        assert weights.grad is not None
        weights -= weights.grad
    assert method.told()["from_solution"] == 0
    return student


def kernel(left: Tensor, right: Tensor) -> np.ndarray:
    a, b = left.double().numpy(), right.double().numpy()
    return 1.3**2 * np.exp(-((a - b.T) ** 2) / (2 * 0.6**2))


def answer(model: Model) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        found = model.network(GRID)
    return found["logits"].numpy(), found["variance"].numpy()


def test_a_fit_is_that_of_the_textbook():
    mean, variance = answer(fitted(0.3))
    near, gram = kernel(GRID, X), kernel(X, X) + 0.3 * np.eye(COUNT)
    np.testing.assert_allclose(mean, near @ np.linalg.solve(gram, Y.double().numpy()), atol=1e-8)
    np.testing.assert_allclose(variance, 1.3**2 - (near * np.linalg.solve(gram, near.T).T).sum(1), atol=1e-8)
    assert mean.dtype == np.float64


def test_data_centric_generations_shrink_the_spectrum():
    """y_t = U prod_s d / (d + noise_s) U^T y, in the eigenbasis of the kernel matrix, to 1e-8."""
    model = None
    for noise in NOISES:
        model = fitted(noise, model, targets="labels" if model is None else "teacher")
    assert model is not None
    d, u = np.linalg.eigh(kernel(X, X))
    *before, last = NOISES
    shrunk = np.prod([d / (d + noise) for noise in before], axis=0)
    targets = u @ (shrunk * (u.T @ Y.double().numpy()).T).T
    expected = kernel(GRID, X) @ (u @ np.diag(1 / (d + last)) @ u.T @ targets)
    np.testing.assert_allclose(answer(model)[0], expected, atol=1e-8)


def test_iterated_self_distillation_goes_to_zero_and_sparser():
    """Mobahi et al. 2020: under the same noise each generation divides what is left, small eigenvalues first."""
    model, norms, ratios = None, [], []
    d, u = np.linalg.eigh(kernel(X, X))
    for _ in range(6):
        model = fitted(0.5, model, targets="labels" if model is None else "teacher")
        with torch.no_grad():
            at = (u.T @ model.network(X)["logits"].numpy()).squeeze(1) / (u.T @ Y.double().numpy()).squeeze(1)
        norms.append(np.abs(at).sum())
        ratios.append(at[-1] / at[len(d) // 2])
    assert all(np.diff(norms) < 0)
    assert all(np.diff(ratios) > 0)
    np.testing.assert_allclose(at, (d / (d + 0.5)) ** 6, atol=1e-8)


def test_distribution_centric_generations_are_one_fit_with_the_combined_noise():
    """Mean and variance, to 1e-8."""
    model = None
    for noise in NOISES:
        model = fitted(noise, model, prior="own" if model is None else "teacher")
    assert model is not None
    one = fitted(1 / sum(1 / noise for noise in NOISES))
    for found, expected in zip(answer(model), answer(one), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-8)
    assert np.abs(answer(fitted(0.3))[1] - answer(one)[1]).max() > 1e-2


def test_any_model_of_numbers_can_be_the_teacher_of_data():
    torch.manual_seed(0)
    teacher = Model(MLP(hidden=[8]).build(FACTS), RowView(Row()))
    student = fitted(1e-6, teacher, targets="teacher")
    with torch.no_grad():
        expected, found = teacher.network(X), student.network(X)["logits"]
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=0)


def test_misfits_are_told():
    with pytest.raises(StillhouseError, match="there is none"):
        fitted(0.1, targets="teacher")
    with pytest.raises(StillhouseError, match="of kind gp"):
        fitted(0.1, Model(MLP().build(FACTS), RowView(Row())), prior="teacher")
    with pytest.raises(StillhouseError, match="points to 20"):
        fitted(0.1, points=12)
    other = process(0.1)
    network(other).lengthscale = 2.0
    with pytest.raises(StillhouseError, match="same lengthscale"):
        fitted(0.1, other, prior="teacher")
    method = Gaussian().build(Roles(process(0.1), None, FACTS, batch()))
    method.update_student(batch(), torch.Generator())
    with pytest.raises(StillhouseError, match="not reached"):  # no step was taken
        method.told()


def test_a_stage_taken_up_after_its_step_tells_nothing():
    assert Gaussian().build(Roles(process(0.1), None, FACTS, batch())).told() == {}


# --- in a run -----------------------------------------------------------------------------------

EXACT = {
    "steps": 1,
    "batch_size": 60,
    "schedule": "constant",
    "optimizer": {"kind": "sgd", "lr": 1.0, "momentum": 0.0},
}
NETWORK = {"kind": "gp", "points": 120, "lengthscale": 3.0, "noise": 0.5}


def recipe(**changes) -> Recipe:
    words = {
        "name": "gp",
        "data": {"kind": "table", "limit": 60},
        "teacher": {"network": NETWORK, "weights": {"kind": "trained"} | EXACT},
        "student": {"network": NETWORK},
        "method": {"kind": "gaussian", "prior": "teacher"},
        "train": EXACT,
        "evaluate": ["regression", "uncertainty"],
        "arms": {"combined": {"student": {"network": NETWORK | {"noise": 0.25}}, "method": "gaussian"}},
    }
    return Recipe.model_validate(words | changes)


def test_a_recipe_runs_it(tmp_path):
    arms = distill(recipe(), out=tmp_path / "run", device="cpu", progress=False).summary["arms"]
    for metric in ("rmse", "r2", "uncertainty"):
        assert arms["student"][metric] == pytest.approx(arms["combined"][metric], abs=1e-9)
        assert arms["control"][metric] == pytest.approx(arms["teacher"][metric], abs=1e-12)
    assert arms["student"]["rmse"] != pytest.approx(arms["teacher"]["rmse"], abs=1e-4)
    assert 0.3 < arms["control"]["r2"] < 0.7
    assert arms["control"]["rmse"] ** 2 == pytest.approx((1 - arms["control"]["r2"]) * _variance(), rel=1e-6)


@pytest.mark.parametrize("train", [{"steps": 1, "batch_size": 60}, EXACT | {"ema": 0.9}])
def test_other_training_is_told(train, tmp_path):
    with pytest.raises(StillhouseError, match="closed form was not reached"):
        distill(recipe(train=train), out=tmp_path / "run", device="cpu", progress=False)


def _variance() -> float:
    labels = recipe().data.build().test.labels.double()
    return (labels - labels.mean()).square().mean().item()
