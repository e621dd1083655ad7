"""Linear CKA against what it must be, and which layers are compared."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.evaluation import similarity as cka
from stillhouse.evaluation.findings import Findings
from stillhouse.evaluation.kinds import FeatureSimilarity
from stillhouse.networks.kinds import MLP, ConvNet, ResNet
from test_evaluation import CLASSES, arm, context, random_answers


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of(a: torch.Tensor, b: torch.Tensor) -> float:
    found = cka.similarity(cka.gram(a), cka.gram(b))
    assert found is not None
    return found


def test_a_rotated_scaled_and_moved_copy_is_the_same():
    x = normal(50, 8) * torch.arange(1, 9)
    rotation = torch.linalg.qr(normal(8, 8, seed=1)).Q
    assert of(x, x) == pytest.approx(1)
    assert of(x, 3.7 * x @ rotation + 5) == pytest.approx(1)
    assert of(x, x @ normal(8, 8, seed=2)) < 0.95  # any linear map is not: that would be CCA


def test_the_estimate_is_the_naive_one_over_distinct_examples():
    """HSIC without bias is a mean over four distinct examples (Song et al. 2012, eq. 4), here one by one."""
    x, y = normal(7, 3), normal(7, 2, seed=1) + normal(7, 3)[:, :2]

    def naive(a: torch.Tensor, b: torch.Tensor) -> float:
        four = list(itertools.permutations(range(len(a)), 4))
        return sum((a[i, j] * (b[i, j] + b[q, r] - 2 * b[i, q])).item() for i, j, q, r in four) / len(four)

    k, m = x @ x.T, y @ y.T
    assert of(x, y) == pytest.approx(naive(k, m) / math.sqrt(naive(k, k) * naive(m, m)))


def test_unrelated_features_have_nothing_where_the_plain_estimate_has_much():
    """n = 60 examples, p = 200 and q = 300: the plain CKA is near sqrt(p q / ((n + p)(n + q))) = 0.80."""
    pairs = [(normal(60, 200, seed=2 * s), normal(60, 300, seed=2 * s + 1)) for s in range(20)]
    values = torch.tensor([of(x, y) for x, y in pairs])
    assert abs(values.mean().item()) < 3 * values.std().item() / math.sqrt(20) + 1e-3
    assert values.abs().max() < 0.1
    plain = torch.tensor([_plain(x, y) for x, y in pairs]).mean().item()
    assert plain == pytest.approx(math.sqrt(200 * 300 / (260 * 360)), abs=0.03)


def _plain(x: torch.Tensor, y: torch.Tensor) -> float:
    """Kornblith et al. 2019, the last equation of section 3."""
    x, y = x - x.mean(0), y - y.mean(0)
    crossed = torch.linalg.norm(y.T @ x) ** 2
    return (crossed / (torch.linalg.norm(x.T @ x) * torch.linalg.norm(y.T @ y))).item()


def test_with_many_examples_it_is_the_plain_one():
    x = normal(2000, 5)
    y = torch.cat([x[:, :2], normal(2000, 4, seed=1)], 1)
    assert of(x, y) == pytest.approx(_plain(x, y), abs=0.005)
    # x shares 2 of its 5 even directions with y's 6: CKA is 2 / sqrt(5 * 6)
    assert of(x, y) == pytest.approx(2 / math.sqrt(30), abs=0.03)


def test_features_that_do_not_vary_have_no_similarity():
    assert cka.similarity(cka.gram(torch.ones(9, 3)), cka.gram(normal(9, 3))) is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ConvNet(width=4), ["conv1", "conv2", "conv3", "linear"]),
        (ResNet(depth=8, width=4), ["conv1", "layer1", "layer2", "layer3", "linear"]),
        (MLP(hidden=[6, 5]), ["layers.0", "layers.2", "layers.4"]),
    ],
)
def test_the_layers_of_the_shipped_networks(kind, expected):
    network = kind.build(Facts("classification", (1, 8, 8), 3))
    one = arm("student", network)
    batch = {"image": torch.rand(5, 1, 8, 8), "labels": torch.zeros(5, dtype=torch.long)}
    assert cka.layers(one.model, batch) == expected


def test_blocks_in_a_list_behind_a_record_are_found_and_thinned():
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(30))
            self.norm = nn.LayerNorm(4)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            for layer in self.layers:
                x = layer(x)
            return {"last": self.norm(x)}

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.head = Inner(), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.model(x.flatten(1))["last"])

    one = arm("student", Outer())
    batch = {"image": torch.rand(5, 4, 1, 1), "labels": torch.zeros(5, dtype=torch.long)}
    found = cka.layers(one.model, batch)
    assert len(found) == cka.MOST_LAYERS
    assert found[0] == "model.layers.0"
    assert found[-1] == "head"
    assert not any("norm" in path for path in found)


def linear(seed: int, *, width: int = 6) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(CLASSES, width), nn.Tanh(), nn.Linear(width, CLASSES))


def test_an_arm_that_is_the_teacher_has_one_on_the_diagonal():
    logits, labels = random_answers()
    arms = [arm("teacher", linear(0)), arm("student", linear(0)), arm("control", linear(1, width=9))]
    shared = context(logits, labels, *arms)
    found = cka.feature_similarity(FeatureSimilarity(), arms[1], shared)
    (figure,) = found.figures
    assert figure["rows"] == figure["columns"] == ["1", "3"]
    assert [figure["values"][i][i] for i in (0, 1)] == pytest.approx([1, 1])
    assert figure["values"][0][1] < 0.99
    assert found.metrics == {"cka": pytest.approx(1)}
    other = cka.feature_similarity(FeatureSimilarity(), arms[2], shared)
    assert other.metrics["cka"] < 0.999
    assert cka.feature_similarity(FeatureSimilarity(), arms[0], shared) == Findings()


def test_so_many_examples_are_looked_at_and_the_layers_named_are_compared():
    logits, labels = random_answers()
    arms = [arm("teacher", linear(0)), arm("student", linear(1))]
    seen: list[int] = []
    arms[1].model.network.register_forward_hook(lambda module, given, output: seen.append(len(given[0])))
    kind = FeatureSimilarity(layers=["1"], teacher_layers=["2", "3"], examples=17)  # batches of 7
    (figure,) = cka.feature_similarity(kind, arms[1], context(logits, labels, *arms)).figures
    assert sum(seen) == 17
    assert (figure["rows"], figure["columns"]) == (["1"], ["2", "3"])
    with pytest.raises(StillhouseError, match="matches no module"):
        cka.feature_similarity(FeatureSimilarity(layers=["nope"]), arms[1], context(logits, labels, *arms))
    with pytest.raises(StillhouseError, match="this run has none"):
        cka.feature_similarity(kind, arms[1], context(logits, labels, arms[1]))
