"""Measurements of classifiers, against values by hand, scikit-learn and plain float64 arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import nn

from stillhouse.engine.contracts import Data, Facts
from stillhouse.errors import StillhouseError
from stillhouse.evaluation import classification, cost, statistics
from stillhouse.evaluation.answers import answers, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.kinds import (
    Accuracy,
    Agreement,
    Calibration,
    Cost,
    FeatureSimilarity,
    GroupEffects,
    MacroF1,
)
from stillhouse.evaluation.metrics import measures
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

CLASSES = 4


class LogitImages:
    """Images that are logits: what a network without layers answers is known."""

    fingerprint = "logit images"

    def __init__(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = logits[:, :, None, None], labels

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, indices: torch.Tensor, rng: torch.Generator | None) -> dict[str, torch.Tensor]:
        assert rng is None, "a measurement must see the examples as they are"
        return {"index": indices, "image": self.images[indices], "labels": self.labels[indices]}


def arm(name: str, network: nn.Module | None = None) -> Arm:
    return Arm(name, Model(network or nn.Flatten(), ImageView(Image())))


def context(logits: torch.Tensor, labels: torch.Tensor, *arms: Arm, names: tuple[str, ...] = ()) -> Context:
    source = LogitImages(logits, labels)
    facts = Facts("classification", (logits.shape[1], 1, 1), logits.shape[1], names)
    data = Data(source, source, source, facts)
    return Context(data, source, {a.name: a for a in arms}, seed=0, device="cpu", batch_size=7)


def random_answers(count: int = 101, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, CLASSES, generator=rng), torch.randint(CLASSES, (count,), generator=rng)


class Turned(nn.Module):
    """Answers with the classes moved round by one: never what an unmoved arm answers."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1).roll(1, dims=-1)


def test_accuracy_is_scikit_learns_in_all_and_by_class():
    logits, labels = random_answers()
    found = classification.accuracy(Accuracy(), arm("student"), context(logits, labels, names=("a", "b", "c", "d")))
    guesses = logits.argmax(-1).numpy()
    assert found.metrics == {"accuracy": pytest.approx(sklearn_metrics.accuracy_score(labels, guesses))}
    (figure,) = found.figures
    confusion = sklearn_metrics.confusion_matrix(labels, guesses)
    assert figure["labels"] == ["a", "b", "c", "d"]
    assert figure["series"][""] == pytest.approx((confusion.diagonal() / confusion.sum(1)).tolist())
    assert found.per_example["accuracy"] == (guesses == labels.numpy()).astype(float).tolist()


def test_classes_that_do_not_occur_are_not_shown_as_wrong():
    logits, labels = random_answers()
    found = classification.accuracy(Accuracy(), arm("student"), context(logits, torch.where(labels == 2, 3, labels)))
    assert found.figures[0]["labels"] == ["0", "1", "3"]


def test_many_classes_are_drawn_by_rank():
    classes = classification.MOST_CLASSES + 1
    labels = torch.arange(3 * classes) % classes
    wrong = torch.arange(3 * classes) // classes < labels % 4  # none, one, two or all three of a class
    logits = torch.eye(classes)[(labels + wrong) % classes]
    (figure,) = classification.accuracy(Accuracy(), arm("student"), context(logits, labels)).figures
    by_class = sklearn_metrics.recall_score(labels, logits.argmax(-1), average=None)
    assert figure["x"] == list(range(1, classes + 1))
    assert figure["series"][""] == pytest.approx(sorted(by_class))


def test_agreement_and_divergence_against_float64():
    logits, labels = random_answers()
    student, teacher = arm("student"), arm("teacher", Turned())
    found = classification.agreement(Agreement(), student, context(logits, labels, student, teacher))
    own = logits.numpy().astype(np.float64)
    q = np.exp(own) / np.exp(own).sum(1, keepdims=True)
    p = np.roll(q, 1, axis=1)
    assert found.metrics["teacher_kl"] == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-6)
    assert found.metrics["agreement"] == 0.0
    assert np.mean(found.per_example["teacher_kl"]) == pytest.approx(found.metrics["teacher_kl"])


def test_an_arm_that_is_the_teacher_agrees_with_it():
    logits, labels = random_answers()
    student, teacher = arm("student"), arm("teacher")
    found = classification.agreement(Agreement(), student, context(logits, labels, student, teacher))
    always = dict.fromkeys(("agreement", "agreement_right", "agreement_wrong"), 1.0)
    assert found.metrics == always | {"teacher_kl": pytest.approx(0.0, abs=1e-12)}
    assert classification.agreement(Agreement(), teacher, context(logits, labels, student, teacher)) == Findings()


def test_divergence_is_from_the_teacher_to_the_arm():
    """Two classes by hand: KL(p||q) with p = (1/2, 1/2), q = (1/4, 3/4) is ln(4/3)/2 and not ln(27/16)/4."""
    even, odd = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    assert classification.teacher_kl(odd, even).item() == pytest.approx(0.5 * math.log(4 / 3))


def test_who_is_right_counts_every_example_once():
    labels = torch.tensor([0, 1, 2, 3, 0])
    own = torch.eye(CLASSES)[[0, 1, 0, 0, 1]]  # right, right, wrong, wrong, wrong
    teacher = torch.eye(CLASSES)[[0, 2, 2, 0, 2]]  # right, wrong, right, the same mistake, another mistake
    figure = classification.who_is_right(classification.Answers(own, labels), classification.Answers(teacher, labels))
    counts = {name: figure[name] for name in ("both", "arm_only", "teacher_only", "neither", "same_mistake")}
    assert counts == {"both": 1, "arm_only": 1, "teacher_only": 1, "neither": 2, "same_mistake": 1}


def test_agreement_says_when_there_is_no_teacher_or_another_number_of_classes():
    logits, labels = random_answers()
    student = arm("student")
    with pytest.raises(StillhouseError, match="has none"):
        classification.agreement(Agreement(), student, context(logits, labels, student))
    wide = arm("teacher", nn.Sequential(nn.Flatten(), nn.Linear(CLASSES, 5)))
    with pytest.raises(StillhouseError, match="same classes"):
        classification.agreement(Agreement(), student, context(logits, labels, student, wide))


def test_macro_f1_against_scikit_learn():
    logits, labels = random_answers()
    labels[labels == 2] = 0  # one class is answered and never right, another neither one nor the other
    logits[:, 3], labels[labels == 3] = -99.0, 1
    found = classification.macro_f1(MacroF1(), arm("student"), context(logits, labels))
    assert found.metrics["macro_f1"] == pytest.approx(
        sklearn_metrics.f1_score(labels, logits.argmax(1), average="macro")
    )


def test_calibration_against_scikit_learn():
    logits, labels = random_answers()
    found = classification.calibration(Calibration(), arm("student"), context(logits, labels))
    p = torch.softmax(logits.double(), -1).numpy()
    assert found.metrics["nll"] == pytest.approx(sklearn_metrics.log_loss(labels, p), rel=1e-6)
    one_hot = np.eye(CLASSES)[labels.numpy()]
    assert found.metrics["brier"] == pytest.approx(((p - one_hot) ** 2).sum(1).mean(), rel=1e-6)
    assert found.metrics["ece"] == pytest.approx(naive_ece(p, labels.numpy(), 15), rel=1e-6)


def naive_ece(p: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Bin by bin, as the paper writes it."""
    confidence, right = p.max(1), p.argmax(1) == labels
    total = 0.0
    for m in range(bins):
        inside = (confidence > m / bins) & (confidence <= (m + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_calibration_error_by_hand():
    """Three answers at 0.9, two of them right, and one wrong at 0.6: (3 |2/3 - 0.9| + 1 |0 - 0.6|) / 4."""
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], dtype=torch.float64)
    bins = classification.reliability(p, torch.tensor([0, 0, 1, 1]), 10)
    assert classification.expected_calibration_error(bins) == pytest.approx((3 * (0.9 - 2 / 3) + 0.6) / 4)
    assert [b["count"] for b in bins] == [0, 0, 0, 0, 0, 1, 0, 0, 3, 0]  # an edge belongs to the bin below


def test_a_certain_answer_has_a_bin():
    bins = classification.reliability(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), 15)
    assert bins[-1]["count"] == 1
    assert classification.expected_calibration_error(bins) == 0.0


def test_answers_are_computed_once_in_eval_mode_and_leave_the_modes_alone():
    logits, labels = random_answers()
    dropout = nn.Dropout(0.5)
    frozen_norm = nn.BatchNorm1d(CLASSES).eval()
    student = arm("student", nn.Sequential(nn.Flatten(), dropout, frozen_norm).train())
    frozen_norm.eval()
    seen = []
    student.model.network.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    shared = context(logits, labels, student)
    first, second = answers(student, shared), answers(student, shared)
    assert first is second
    assert seen == [False] * math.ceil(len(labels) / 7)
    assert dropout.training
    assert not frozen_norm.training
    torch.testing.assert_close(first.logits, logits / math.sqrt(1 + frozen_norm.eps))
    assert first.labels.equal(labels)


def test_modes_come_back_after_an_error():
    module = nn.Dropout().train()
    with pytest.raises(RuntimeError, match="boom"), measuring(module):
        raise RuntimeError("boom")
    assert module.training


def test_a_model_that_is_no_classifier_is_told_so():
    logits, labels = random_answers()
    with pytest.raises(StillhouseError, match="are for classifiers"):
        classification.accuracy(Accuracy(), arm("student", nn.Identity()), context(logits, labels))


def test_cost_counts_a_multiply_add_as_two():
    logits, labels = random_answers()
    network = nn.Sequential(nn.Conv2d(CLASSES, 6, 1, bias=False), nn.Flatten(), nn.Linear(6, 3))
    found = cost.cost(Cost(batch_size=7), arm("student", network), context(logits, labels))
    assert found.metrics["parameters"] == CLASSES * 6 + 6 * 3 + 3
    assert found.metrics["flops"] == 2 * (CLASSES * 6 + 6 * 3)
    assert found.metrics["milliseconds"] > 0
    assert "a batch of 7 on cpu" in found.figures[0]["text"]


def test_every_metric_says_how_it_is_read():
    logits, labels = random_answers()
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(CLASSES, CLASSES)) for _ in range(2)]
    student, teacher = arm("student", networks[0]), arm("teacher", networks[1])
    shared = context(logits, labels, student, teacher)
    for kind in (Accuracy(), Agreement(), Calibration(), GroupEffects(), FeatureSimilarity(layers=["1"]), Cost()):
        found = kind.build(student, shared)
        assert list(found.metrics) == list(kind.gives)
        assert set(found.per_example) <= set(found.metrics)
        for name, values in found.per_example.items():
            assert np.mean(values) == pytest.approx(found.metrics[name])
    assert {"accuracy", "teacher_kl", "ece", "flops"} <= measures().keys()


def test_findings_refuse_a_metric_given_twice():
    found = Findings({"accuracy": 0.5})
    found.add(Findings({"nll": 1.0}, [{"kind": "table"}], {"nll": [1.0]}))
    assert found == Findings({"accuracy": 0.5, "nll": 1.0}, [{"kind": "table"}], {"nll": [1.0]})
    with pytest.raises(StillhouseError, match="accuracy"):
        found.add(Findings({"accuracy": 0.4}))


def bounds(interval: statistics.Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def test_paired_interval_of_equal_arms_is_zero_and_of_a_constant_gain_a_point():
    values = [0.0, 1.0, 1.0, 0.0]
    assert statistics.paired_interval(values, values) == (0.0, 0.0, 0.0)
    better = [v + 0.25 for v in values]
    assert statistics.paired_interval(better, values) == pytest.approx((0.25, 0.25, 0.25))
    assert statistics.paired_interval([1.0], [0.0]) == (1.0, None, None)
    with pytest.raises(ValueError, match="3 and 2"):
        statistics.paired_interval([1, 2, 3], [1, 2])


def test_paired_interval_is_the_normal_one_where_there_are_many_examples():
    rng = np.random.default_rng(1)
    hard = rng.normal(size=2000) * 5  # shared by both arms: must cancel
    a, b = hard + rng.normal(size=2000) + 0.3, hard
    difference = a - b
    reach = 1.96 * difference.std(ddof=1) / math.sqrt(2000)
    found = statistics.paired_interval(a.tolist(), b.tolist())
    assert found.mean == pytest.approx(difference.mean())
    assert found.low == pytest.approx(difference.mean() - reach, abs=0.1 * reach)
    assert found.high == pytest.approx(difference.mean() + reach, abs=0.1 * reach)
    wider = statistics.paired_interval(a.tolist(), b.tolist(), confidence=0.99)
    assert bounds(wider)[0] < bounds(found)[0]


def test_paired_interval_covers_the_truth_about_as_often_as_it_says():
    """Accuracy-like values: arms right with 0.85 and 0.80; 250 experiments, so 95 % +- 4.1 (3 se)."""
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(250):
        luck = rng.random(200)
        own, other = (luck < 0.85).astype(float), (luck * rng.random(200) ** 0.05 < 0.80).astype(float)
        truth = 0.85 - _chance_below(0.80)
        low, high = bounds(statistics.paired_interval(own.tolist(), other.tolist(), seed=trial))
        hits += low <= truth <= high
    assert 0.909 <= hits / 250 <= 0.991


def _chance_below(x: float) -> float:
    """P(U V^0.05 < x) for independent uniform U and V, by integrating over V."""
    v = (np.arange(200_000) + 0.5) / 200_000
    return float(np.minimum(1.0, x / v**0.05).mean())


def test_t_interval_by_hand():
    """Mean 2, standard deviation 1, three values: 2 +- 4.302653 / sqrt(3)."""
    found = statistics.t_interval([1.0, 2.0, 3.0])
    assert found == pytest.approx((2.0, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), rel=1e-6)
    assert statistics.t_interval([5.0]) == (5.0, None, None)
    assert not statistics.t_interval([5.0]).clear
    assert statistics.t_interval([1.0, 1.01, 0.99]).clear


def test_effect_is_student_minus_control_in_the_students_order():
    right = [1.0, 1.0, 1.0, 0.0] * 50
    wrong = [1.0, 0.0, 1.0, 0.0] * 50
    student = Findings({"ece": 0.1, "accuracy": 0.75, "parameters": 9.0}, per_example={"accuracy": right})
    control = Findings({"accuracy": 0.5, "ece": 0.3, "parameters": 9.0}, per_example={"accuracy": wrong})
    found = statistics.effect(student, control, seed=3)
    assert list(found) == ["ece", "accuracy"]
    assert found["ece"] == {"difference": pytest.approx(-0.2), "low": None, "high": None}
    difference, low, high = (found["accuracy"][key] for key in ("difference", "low", "high"))
    assert difference == 0.25
    assert low is not None
    assert high is not None
    assert 0.18 < low < 0.25 < high < 0.32


def test_an_interval_made_of_two_is_the_normal_one_for_normal_estimates():
    """Estimates 5 and 2 with standard errors 0.3 and 0.4 differ by 3 with a standard error of 0.5."""
    a = {"m": 5.0, "m_low": 5 - 1.96 * 0.3, "m_high": 5 + 1.96 * 0.3}
    b = {"m": 2.0, "m_low": 2 - 1.96 * 0.4, "m_high": 2 + 1.96 * 0.4}
    assert statistics.interval_from_arms("m", a, b) == pytest.approx((3.0, 3 - 1.96 * 0.5, 3 + 1.96 * 0.5))
    assert statistics.interval_from_arms("m", a, {"m": 2.0}) == (3.0, None, None)
    skewed = a | {"m_high": 9.0}
    assert bounds(statistics.interval_from_arms("m", skewed, b))[0] == pytest.approx(3 - 1.96 * 0.5)
    assert bounds(statistics.interval_from_arms("m", b, skewed))[0] == pytest.approx(-3 - math.hypot(1.96 * 0.4, 4))
    assert list(statistics.effect(Findings(a), Findings(b))) == ["m"]
