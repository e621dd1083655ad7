"""A scene's features from several granularities: the loss, what comes to be trusted, the views, the metric."""

from __future__ import annotations

import pytest
import torch

from stillhouse.engine.contracts import Data
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.evaluation.scenes import scene_labels
from stillhouse.evaluation.task_kinds import SceneLabels
from stillhouse.methods.granularity_selection import selected_distance
from stillhouse.methods.multi_kinds import GranularitySelection
from stillhouse.methods.roles import Roles
from stillhouse.networks.task_kinds import GaussianField
from stillhouse.sources.made_kinds import Scene
from stillhouse.views.field import FieldView
from stillhouse.views.kinds import Field
from stillhouse.views.model import Model

KIND = Scene(objects=6, gaussians=4, views=4, pixels=12, width=5)


def roles() -> Roles:
    data: Data = KIND.build()
    torch.manual_seed(0)
    student = Model(GaussianField().build(data.facts), FieldView(Field(field="weights")))
    return Roles(student, None, data.facts, data.train.fetch(torch.arange(8), None), source=data.train)


def test_the_distance_is_the_share_weighted_sum() -> None:
    rng = torch.Generator().manual_seed(0)
    rendered, targets = torch.randn(3, 4, generator=rng), torch.randn(3, 2, 4, generator=rng)
    shares = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.5, 0.5]])
    expected = [0.0, 0.0, 0.0]
    for b in range(3):
        for g in range(2):
            apart = [abs(float(rendered[b, d] - targets[b, g, d])) for d in range(4)]
            expected[b] += float(shares[b, g]) * sum(apart) / 4
    assert selected_distance(rendered, targets, shares).tolist() == pytest.approx(expected)


def test_rendering_sums_what_the_gaussians_add() -> None:
    given = roles()
    network, weights = given.student.network, given.example["weights"]
    signals = given.student.signals(given.example, ["logits", "granularity"])
    expected = sum(weights[:, n, None] * network.features[n] for n in range(weights.shape[1]))
    torch.testing.assert_close(signals["logits"], expected)
    torch.testing.assert_close(signals["granularity"].sum(1), torch.ones(8))


def test_whose_targets_count() -> None:
    given = roles()
    with torch.no_grad():
        given.student.network.levels.normal_()
    signals = given.student.signals(given.example, ["logits", "granularity"])
    apart = (signals["logits"].unsqueeze(1) - given.example["targets"]).abs().mean(2)
    for by, expected in (
        ("learned", (signals["granularity"] * apart).sum(1)),
        ("average", apart.mean(1)),
        (2, apart[:, 2]),
    ):
        (loss,) = GranularitySelection(by=by).build(given).update_student(given.example, torch.Generator()).values()
        torch.testing.assert_close(loss.values, expected)


def test_views_agree_on_one_granularity_for_each_object() -> None:
    data = KIND.build()
    batch = data.train.fetch(torch.arange(len(data.train)), None)
    test = data.test.fetch(torch.arange(len(data.test)), None)
    seen = set(batch["labels"].tolist()) & set(test["labels"].tolist())
    assert len(seen) > 2
    for label in seen:
        true = test["targets"][test["labels"] == label][0, 0]
        far = 1 - torch.nn.functional.cosine_similarity(batch["targets"][batch["labels"] == label], true, dim=2)
        assert (far.amax(0) < 1e-5).sum() == 1
    assert (batch["weights"].sum(1) <= 1 + 1e-5).all()
    assert data.train.fingerprint == KIND.build().train.fingerprint


def test_the_scene_comes_to_trust_what_agrees() -> None:
    given = roles()
    assert given.source is not None
    every = given.source.fetch(torch.arange(len(given.source)), None)
    method = GranularitySelection().build(given)
    optimizer = torch.optim.Adam(method.student.parameters(), 0.03)
    for _ in range(200):
        (loss,) = method.update_student(every, torch.Generator()).values()
        optimizer.zero_grad()
        loss.values.mean().backward()
        optimizer.step()
    shares = given.student.signals(every, ["granularity"])["granularity"]
    data = KIND.build()
    test = data.test.fetch(torch.arange(len(data.test)), None)
    true = {label: target[0] for label, target in zip(test["labels"].tolist(), test["targets"], strict=True)}
    rows = [row for row, label in enumerate(every["labels"].tolist()) if label in true]
    fits = torch.stack(
        [(every["targets"][row] - true[int(every["labels"][row])]).abs().sum(1).argmin() for row in rows]
    )
    assert float((shares[rows].argmax(1) == fits).float().mean()) > 0.7


def test_the_metric_names_pixels_by_the_nearest_true_feature() -> None:
    data, given = KIND.build(), roles()
    batch = data.test.fetch(torch.arange(len(data.test)), None)
    with torch.no_grad():
        wanted = torch.linalg.pinv(batch["weights"], rtol=1e-5) @ batch["targets"][:, 0]  # it lacks rank
        given.student.network.features.copy_(wanted)
    context = Context(data, data.test, {}, 0, "cpu", batch_size=16)
    good = scene_labels(SceneLabels(), Arm("student", given.student), context).metrics
    with torch.no_grad():
        given.student.network.features.mul_(-1)
    bad = scene_labels(SceneLabels(), Arm("student", given.student), context).metrics
    assert good["label_accuracy"] > 0.8
    assert bad["label_accuracy"] < 0.3
    assert good["feature_distance"] == pytest.approx(2 - bad["feature_distance"], abs=1e-5)


def test_other_data_is_refused() -> None:
    given = roles()
    given.example.pop("targets")
    with pytest.raises(StillhouseError, match="data 'scene'"):
        GranularitySelection().build(given)
