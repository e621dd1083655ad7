"""Probes of features, accuracy by groups and on shuffled patches: against values by hand and naive loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from stillhouse.engine.contracts import Data, Facts
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.classification import group_accuracy, patch_shuffle, shuffled_patches
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.evaluation.kinds import KNN, AttentionDistance, GroupAccuracy, LinearProbe, PatchShuffle, ProbeTasks
from stillhouse.evaluation.multi_label import multi_label_knn, multi_label_probe
from stillhouse.evaluation.multi_label_kinds import MultiLabelKNN, MultiLabelProbe
from stillhouse.evaluation.representation import attention_distance, features, knn, linear_probe, probe_tasks
from stillhouse.networks.kinds import ViT as ViTKind
from stillhouse.networks.vit import Block, ViT
from stillhouse.sources.arrays import ImageArray
from stillhouse.teachers.ensemble import Ensemble
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model


class Told(nn.Module):
    """Its embedding is the image's first pixels; its tokens lie around them."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        flat = image.flatten(1)[:, :2]
        tokens = flat[:, None] + torch.tensor([[-1.0], [1.0]])[None]
        return {"logits": flat, "embedding": flat, "tokens": tokens}


def context(train: tuple[torch.Tensor, torch.Tensor], test: tuple[torch.Tensor, torch.Tensor]) -> Context:
    def source(points: torch.Tensor, labels: torch.Tensor, name: str) -> ImageArray:
        images = nn.functional.pad(points, (0, 14)).view(-1, 1, 4, 4)
        return ImageArray(images, labels, fingerprint=name)

    facts = Facts("classification", (1, 4, 4), 2)
    data = Data(source(*train, "train"), source(*test, "test"), source(*test, "test"), facts)
    return Context(data, data.test, {}, seed=0, device="cpu", batch_size=7)


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    return torch.randn(count, 2, generator=rng) + torch.where(labels == 0, 0.7, -0.7)[:, None], labels


ARM = Arm("student", Model(Told(), ImageView(Image())))


def test_neighbours_vote_by_their_cosine() -> None:
    train, test = drawn(40, 0), drawn(31, 1)
    right = []
    for point, label in zip(*test, strict=True):
        cosines = [float(nn.functional.cosine_similarity(point, other, dim=0)) for other in train[0]]
        nearest = sorted(range(40), key=lambda i: -cosines[i])[:5]
        votes = [sum(math.exp(cosines[i] / 0.5) for i in nearest if train[1][i] == c) for c in (0, 1)]
        right.append(float((votes[1] > votes[0]) == bool(label)))
    found = knn(KNN(neighbours=5, temperature=0.5), ARM, context(train, test))
    assert found.per_example["knn_accuracy"] == right
    assert 0.5 < found.metrics["knn_accuracy"] == pytest.approx(sum(right) / 31)


def test_a_probe_is_fitted_on_the_training_split_alone() -> None:
    train, test = drawn(60, 0), drawn(30, 1)
    fair = linear_probe(LinearProbe(), ARM, context(train, test)).metrics["probe_accuracy"]
    turned = linear_probe(LinearProbe(), ARM, context((train[0], 1 - train[1]), test)).metrics["probe_accuracy"]
    assert fair > 0.7
    assert turned == pytest.approx(1 - fair)


def test_each_task_is_told_apart_by_itself_and_the_worst_is_named() -> None:
    """Classes 0 and 1 lie apart, 2 and 3 on top of each other, and both pairs at the same places."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    places = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    points = places[labels] + torch.randn(400, 2, generator=rng)
    found = probe_tasks(ProbeTasks(tasks=[[0, 1], [2, 3]]), ARM, context((points, labels), (points, labels))).metrics
    assert found["probe_worst"] < 0.65
    assert abs(found["probe_mean"] - (1 + found["probe_worst"]) / 2) < 0.01
    with pytest.raises(StillhouseError, match=r"\[0, 7\]"):
        probe_tasks(ProbeTasks(tasks=[[0, 1], [0, 7]]), ARM, context((points, labels), (points, labels)))


def test_few_labels_are_chosen_by_class() -> None:
    train, test = drawn(60, 0), drawn(30, 1)
    few = linear_probe(LinearProbe(examples=2), ARM, context(train, test))
    assert few.metrics["probe_accuracy"] > 0.4  # one of each class, else there is nothing to fit
    nearest = knn(KNN(examples=2), ARM, context(train, test))  # fewer examples than neighbours
    assert nearest.metrics["knn_accuracy"] > 0.4


def test_an_ensemble_has_no_features_of_its_own() -> None:
    given = context(drawn(20, 0), drawn(9, 1))
    several = Arm("teacher", Ensemble({"one": ARM.model, "two": ARM.model}))
    assert linear_probe(LinearProbe(), several, given).metrics == knn(KNN(), several, given).metrics == {}


def test_tokens_are_averaged() -> None:
    given = context(drawn(10, 0), drawn(9, 1))
    (pooled, _), (vectors, labels) = (features(ARM, given, name, given.source) for name in ("tokens", "embedding"))
    torch.testing.assert_close(pooled, vectors, atol=1e-6, rtol=0)
    assert torch.equal(labels, torch.arange(9) % 2)


def test_groups_are_counted_apart() -> None:
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    labels = torch.tensor([0, 0, 0, 1, 1])
    given = context((points, labels), (points, labels))
    assert group_accuracy(GroupAccuracy(head=[0], tail=[1]), ARM, given).metrics == {
        "head_accuracy": 1.0,
        "tail_accuracy": 0.5,
    }
    with pytest.raises(StillhouseError, match=r"classes \[7\]"):
        group_accuracy(GroupAccuracy(head=[0], tail=[7]), ARM, given)


def test_shuffling_moves_whole_patches_of_each_image_in_its_own_way() -> None:
    image = torch.arange(3 * 2 * 16.0).view(3, 2, 4, 4)
    moved = shuffled_patches(image, 2, torch.Generator().manual_seed(0))
    places = [(y, x) for y in (0, 2) for x in (0, 2)]
    orders = []
    for before, after in zip(image, moved, strict=True):
        pieces = [before[:, y : y + 2, x : x + 2] for y, x in places]
        found = [after[:, y : y + 2, x : x + 2] for y, x in places]
        orders.append([next(i for i, piece in enumerate(pieces) if torch.equal(piece, new)) for new in found])
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_shuffling_is_the_same_in_every_run_and_changes_answers() -> None:
    train, test = drawn(20, 0), drawn(64, 1)
    one, two = (patch_shuffle(PatchShuffle(patch=2), ARM, context(train, test)) for _ in range(2))
    assert one.metrics == two.metrics
    plain = ((test[0][:, 1] > test[0][:, 0]).long() == test[1]).double().tolist()
    assert one.per_example["shuffled_accuracy"] != plain
    with pytest.raises(StillhouseError, match="patches of 3 pixels"):
        patch_shuffle(PatchShuffle(patch=3), ARM, context(train, test))


@pytest.mark.parametrize("tokens", [False, True])
def test_attention_that_is_even_or_on_itself_has_a_known_distance(tokens: bool) -> None:
    kind = ViTKind(patch=2, width=8, depth=2, heads=2, distillation=tokens)
    given = context(drawn(5, 0), drawn(9, 1))
    network = ViT(kind, given.data.facts)  # 2 x 2 patches
    for block in network.blocks:
        assert isinstance(block, Block)
        nn.init.zeros_(block.attention.query.weight)  # no query, no preference
    arm = Arm("student", Model(network, ImageView(Image())))
    even = (1 + 1 + math.sqrt(2)) / 4
    found = attention_distance(AttentionDistance(), arm, given)
    assert found.metrics["attention_distance"] == pytest.approx(even)
    block = network.blocks[0]
    assert isinstance(block, Block)
    block.attention.softmax = Itself()  # type: ignore[assignment]
    assert attention_distance(AttentionDistance(block=0), arm, given).metrics["attention_distance"] == 0
    assert attention_distance(AttentionDistance(), ARM, given).metrics == {}


class Itself(nn.Module):
    """Every token looks at itself."""

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return torch.eye(scores.shape[-1]).expand_as(scores)


def two_labels(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points, and whether each of the two coordinates lies above zero, with some doubt."""
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 2, generator=rng)
    return points, (points + 0.4 * torch.randn(count, 2, generator=rng) > 0).long()


def precision(scores: list[float], there: list[bool]) -> float:
    """Average precision, by hand: over the examples that have the class, the share of such down to its rank."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    hits = [place for place, i in enumerate(order, 1) if there[i]]
    return sum(found / place for found, place in enumerate(hits, 1)) / len(hits)


def test_neighbours_vote_for_each_of_their_labels() -> None:
    train, test = two_labels(40, 0), two_labels(31, 1)
    means = []
    for label in (0, 1):
        scores = []
        for point in test[0]:
            cosines = [float(nn.functional.cosine_similarity(point, other, dim=0)) for other in train[0]]
            nearest = sorted(range(40), key=lambda i: -cosines[i])[:7]
            votes = [math.exp(cosines[i] / 0.5) for i in nearest]
            scores.append(sum(v for v, i in zip(votes, nearest, strict=True) if train[1][i, label]) / sum(votes))
        means.append(precision(scores, test[1][:, label].bool().tolist()))
    found = multi_label_knn(MultiLabelKNN(neighbours=7, temperature=0.5), ARM, context(train, test))
    # Those that all neighbours vote for are equals, whose order is open.
    assert found.metrics["knn_average_precision"] == pytest.approx(sum(means) / 2, abs=0.02)


def test_a_probe_for_each_label_ranks_by_it_and_is_fitted_on_the_training_split() -> None:
    train, test = two_labels(80, 0), two_labels(50, 1)
    fair = multi_label_probe(MultiLabelProbe(), ARM, context(train, test)).metrics["probe_average_precision"]
    by_hand = [precision(test[0][:, label].tolist(), test[1][:, label].bool().tolist()) for label in (0, 1)]
    assert fair == pytest.approx(sum(by_hand) / 2, abs=0.02)
    swapped = multi_label_probe(MultiLabelProbe(), ARM, context((train[0], train[1].flip(1)), test))
    assert swapped.metrics["probe_average_precision"] < fair - 0.2


def test_a_label_that_no_training_example_has_is_not_asked() -> None:
    train, test = two_labels(80, 0), two_labels(50, 1)
    train[1][:, 1] = 0
    found = multi_label_probe(MultiLabelProbe(), ARM, context(train, test)).metrics["probe_average_precision"]
    assert found == pytest.approx(precision(test[0][:, 0].tolist(), test[1][:, 0].bool().tolist()), abs=0.02)
    train[1][:, 0] = 1
    with pytest.raises(StillhouseError, match="multi-label-probe"):
        multi_label_probe(MultiLabelProbe(), ARM, context(train, test))
