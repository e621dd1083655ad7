"""How similar a source is to a task, the weights that follow, and what the student learns by them."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn

from stillhouse.engine.contracts import Batch, Facts
from stillhouse.errors import StillhouseError
from stillhouse.methods.multi_kinds import SimilarSources
from stillhouse.methods.roles import Roles
from stillhouse.methods.similar_sources import weights_of
from stillhouse.networks.kinds import MLP
from stillhouse.objectives.transferability import parc
from stillhouse.sources.arrays import ImageArray
from stillhouse.teachers.ensemble import Ensemble
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts("classification", (1, 2, 2), 3)
PLAIN = ImageView(Image())


def test_parc_is_the_rank_correlation_of_both_dissimilarities() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 1, 0, 2, 0, 1])
    features = torch.randn(8, 5, generator=rng) + nn.functional.one_hot(labels, 5)
    scaled = ((features - features.mean(0)) / features.std(0, correction=0)).double().numpy()
    pairs = [(i, j) for i in range(8) for j in range(i + 1, 8)]
    ours = [round(1 - pearsonr(scaled[i], scaled[j])[0], 9) for i, j in pairs]
    one_hot = torch.eye(3).double().numpy()[labels]
    theirs = [round(1 - pearsonr(one_hot[i], one_hot[j])[0], 9) for i, j in pairs]
    assert parc(features, labels) == pytest.approx(spearmanr(ours, theirs)[0], abs=1e-9)


def test_parc_knows_features_of_the_task_from_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (60,), generator=rng)
    noise = torch.randn(60, 8, generator=rng)
    fitting = noise + 4 * nn.functional.one_hot(labels, 8)
    assert parc(fitting, labels) > 0.6
    assert abs(parc(noise, labels)) < 0.15
    assert parc(torch.ones(60, 8), labels) == 0


def test_power_goes_from_all_alike_to_the_nearest() -> None:
    similarity = {"a": 0.4, "b": 0.2, "c": -0.3}
    assert weights_of(similarity, 1) == pytest.approx({"a": 2 / 3, "b": 1 / 3, "c": 0})
    assert weights_of(similarity, 0) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    assert weights_of(similarity, 100)["a"] == pytest.approx(1)
    assert weights_of({"a": -1.0, "b": -0.5}, 2) == {"a": 0.5, "b": 0.5}


class Seen(nn.Module):
    """Its features are the image's pixels in some order, its answers the first three of them."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.order, self.scale = order, nn.Parameter(torch.ones(()))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = self.scale * image.flatten(1)[:, self.order]
        return {"logits": seen[:, :3], "embedding": seen}


def source(labelled: int = 20) -> ImageArray:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 3
    images = torch.rand(40, 1, 2, 2, generator=rng)
    images.view(40, 4)[:, :3] += 3 * nn.functional.one_hot(labels, 3)
    shown = torch.where(torch.arange(40) < labelled, labels, -100)
    return ImageArray(images, shown, fingerprint="made up")


def method(given: ImageArray, **options):
    torch.manual_seed(0)
    student = Model(MLP(hidden=[6]).build(FACTS), PLAIN)
    teacher = Ensemble({"knows": Model(Seen([0, 1, 2, 3]), PLAIN), "blind": Model(Seen([3, 3, 3, 3]), PLAIN)})
    kind = SimilarSources(source_signal="embedding", signal="features.layers.1", **options)
    return kind.build(Roles(student, teacher, FACTS, given.fetch(torch.arange(4), None), source=given))


def test_losses_are_the_weighted_terms_of_the_paper() -> None:
    given = source()
    built = method(given, power=0, share=0.25)
    batch: Batch = given.fetch(torch.arange(10, 30), None)
    losses = built.update_student(batch, torch.Generator())
    signals = built.student.module.signals(batch, ["logits", "features.layers.1"])
    known = batch["labels"] != -100
    entropy = -signals["logits"].log_softmax(-1)[known, batch["labels"][known]].mean()
    labels = losses["labels"]
    assert labels.where is not None
    torch.testing.assert_close(
        labels.weight * (labels.values * labels.where).sum() / labels.where.sum(), 0.25 * entropy
    )
    for name, member in built.teacher.members.items():
        p = member.signals(batch)["logits"].softmax(-1)
        q = built.student.parts[name](signals["features.layers.1"]).log_softmax(-1)
        torch.testing.assert_close(losses[name].values, (p * (p.log() - q)).sum(-1))
        assert losses[name].weight == pytest.approx(0.75 * 0.5)


def test_the_source_that_knows_the_task_gets_the_weight() -> None:
    weights = method(source(), power=4).told()
    assert weights["weight/knows"] > 0.99
    assert weights["weight/knows"] + weights["weight/blind"] == pytest.approx(1)


def test_a_task_without_labels_is_told() -> None:
    with pytest.raises(StillhouseError, match="labelled examples"):
        method(source(labelled=1))
