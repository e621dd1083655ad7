"""scikit-learn's classifiers as networks: the same probabilities, in tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.networks.kinds import MLP, Trees
from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe


def classes(count: int, examples: int = 240) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(count)
    y = torch.arange(examples) % count
    return torch.randn(examples, 3, 2, generator=rng) + y.view(-1, 1, 1), y


def built(kind: Trees | MLP, count: int) -> nn.Module:
    return kind.build(Facts("classification", (3, 2), classes=count))


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("style", ["boosted", "forest"])
def test_probabilities_are_those_of_scikit_learn(style: str, count: int) -> None:
    x, y = classes(count)
    network = built(Trees(style=style, trees=7, depth=3, least=1e-12), count)  # type: ignore[arg-type]
    network.fit(x, y, 5)  # type: ignore[operator]
    theirs = (
        GradientBoostingClassifier(n_estimators=7, max_depth=3, random_state=5)
        if style == "boosted"
        else RandomForestClassifier(7, max_depth=3, random_state=5)
    )
    new = torch.randn(500, 3, 2, generator=torch.Generator().manual_seed(9)) * 2 + 1
    expected = theirs.fit(x.flatten(1).numpy(), y.numpy()).predict_proba(new.flatten(1).numpy())
    np.testing.assert_allclose(network(new).softmax(-1).numpy(), expected, atol=1e-6)
    assert len(np.unique(expected.round(6), axis=0)) > 10  # so that a tree walked wrongly would show


def test_they_are_kept_without_a_pickle() -> None:
    x, y = classes(3)
    network, other = (built(Trees(trees=4), 3) for _ in range(2))
    network.fit(x, y, 0)  # type: ignore[operator]
    assert not torch.equal(network(x), other(x))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(x), other(x))
    assert all(isinstance(value, Tensor) for value in network.state_dict().values())


@pytest.mark.parametrize("count", [2, 3])
def test_logistic_regression_is_a_layer(count: int) -> None:
    x, y = classes(count)
    network = built(MLP(), count)
    network.fit(x, y, 0)  # type: ignore[operator]
    expected = (
        LogisticRegression(max_iter=2000).fit(x.flatten(1).numpy(), y.numpy()).predict_proba(x.flatten(1).numpy())
    )
    np.testing.assert_allclose(network(x).softmax(-1).detach().numpy(), expected, atol=1e-5)


def test_what_cannot_be_fitted_is_told() -> None:
    x, y = classes(3)
    with pytest.raises(StillhouseError, match="without hidden layers"):
        built(MLP(hidden=[4]), 3).fit(x, y, 0)  # type: ignore[operator]
    with pytest.raises(StillhouseError, match=r"\[3\] have no example"):
        built(Trees(trees=2), 4).fit(x, y, 0)  # type: ignore[operator]


def test_a_forest_teaches_a_network(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "forest",
            "data": {"kind": "mixup", "of": {"kind": "digits", "shift": 0}},
            "teacher": {"network": {"kind": "trees", "style": "forest", "trees": 30, "depth": 10}, "weights": "fitted"},
            "student": {"network": {"kind": "mlp", "hidden": [16]}},
            "method": {"kind": "match", "terms": [{"by": "kl"}]},
            "train": {"steps": 150, "optimizer": {"kind": "adamw", "lr": 1e-2}},
            "evaluate": ["accuracy", "agreement"],
            "control": False,
        }
    )
    arms = distill(recipe, out=tmp_path / "run", progress=False).summary["arms"]
    assert arms["teacher"]["accuracy"] > 0.9
    assert arms["student"]["agreement"] > 0.8


def test_a_network_trained_by_steps_is_not_fitted(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "none",
            "data": "digits",
            "teacher": {"network": {"kind": "convnet"}, "weights": "fitted"},
            "student": {"network": {"kind": "mlp"}},
            "method": {"kind": "match", "terms": [{"by": "kl"}]},
            "train": {"steps": 1},
            "control": False,
        }
    )
    with pytest.raises(StillhouseError, match="is trained by steps"):
        distill(recipe, out=tmp_path / "run", progress=False)
