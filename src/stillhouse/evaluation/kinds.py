"""The measurements a recipe may ask for under `evaluate`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from stillhouse.kinds import AnyKind, Kind
from stillhouse.methods.kinds import Term
from stillhouse.sources.kinds import DataKind


class Measure(NamedTuple):
    """How one number of the summary is called and read."""

    label: str
    better: Literal["higher", "lower", ""] = ""
    """Which way is good; "" where neither is."""
    unit: Literal["share", "count", "ms", "nats", ""] = ""
    """A share is printed in per cent, a count with thousands apart; nats stand beside the name."""
    cost: bool = False
    """Whether it says what an arm costs to use, not how good it is."""


class MetricKind(Kind):
    """Measures an arm: builds a function `(kind, arm, context) -> Findings` (see stillhouse.evaluation.findings)."""

    family: ClassVar[str] = "metric"
    gives: ClassVar[dict[str, Measure]] = {}
    """The metrics it gives, by their name in summary.json."""
    task: ClassVar[
        Literal[
            "classification",
            "multi-label",
            "segmentation",
            "detection",
            "tagging",
            "regression",
            "restoration",
            "language",
            "masked-language",
            "generation",
        ]
        | None
    ] = None
    """What an arm has to do to be measured so; None: anything."""
    needs_teacher: ClassVar[bool] = False
    """Whether it measures against a teacher that can be run."""
    rehearsed: ClassVar[bool] = True
    """Whether the preflight tries it on a few examples; not where that takes as long as the measurement."""


class Accuracy(MetricKind):
    """Share of test examples whose most likely class is the label; per class in the report."""

    kind: Literal["accuracy"] = "accuracy"
    task = "classification"
    builds = "stillhouse.evaluation.classification:accuracy"
    gives: ClassVar[dict[str, Measure]] = {"accuracy": Measure("accuracy", "higher", "share")}


class MacroF1(MetricKind):
    """Harmonic mean of precision and recall of each class, averaged over the classes: rare ones count as much."""

    kind: Literal["macro-f1"] = "macro-f1"
    task = "classification"
    builds = "stillhouse.evaluation.classification:macro_f1"
    gives: ClassVar[dict[str, Measure]] = {"macro_f1": Measure("F1 averaged over classes", "higher")}


class GroupAccuracy(MetricKind):
    """Accuracy on the classes with many training examples and on those with few, for long-tailed data."""

    kind: Literal["group-accuracy"] = "group-accuracy"
    task = "classification"
    builds = "stillhouse.evaluation.classification:group_accuracy"
    gives: ClassVar[dict[str, Measure]] = {
        "head_accuracy": Measure("accuracy on frequent classes", "higher", "share"),
        "tail_accuracy": Measure("accuracy on rare classes", "higher", "share"),
    }
    head: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """The frequent classes, by index."""
    tail: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """The rare ones."""


class PatchShuffle(MetricKind):
    """Accuracy on images cut into patches that are put together in another order, drawn once for each image.

    What is left of an answer when local texture stays and the whole is gone (Naseer et al. 2021, arXiv:2105.10497).
    """

    kind: Literal["patch-shuffle"] = "patch-shuffle"
    task = "classification"
    builds = "stillhouse.evaluation.classification:patch_shuffle"
    gives: ClassVar[dict[str, Measure]] = {
        "shuffled_accuracy": Measure("accuracy, patches shuffled", "higher", "share")
    }
    patch: Annotated[int, Field(gt=0)]
    """Height and width in pixels."""


class ShiftedAccuracy(MetricKind):
    """Accuracy on images moved by whole pixels, the mean over all ways to move them; zeros move in."""

    kind: Literal["shifted-accuracy"] = "shifted-accuracy"
    task = "classification"
    builds = "stillhouse.evaluation.classification:shifted_accuracy"
    gives: ClassVar[dict[str, Measure]] = {"shifted_accuracy": Measure("accuracy, images moved", "higher", "share")}
    pixels: Annotated[int, Field(gt=0)] = 2
    """Most pixels that an image is moved, each way; the image in its place is one of the ways."""


class TeacherStddev(MetricKind):
    """How much the teacher's mean answer to augmented training images changes from one draw to the next.

    T. stddev of Wang et al. 2022 (arXiv:2012.02909), section 3.2: known before a student is trained, and lower where
    an augmentation serves distillation better.
    """

    kind: Literal["teacher-stddev"] = "teacher-stddev"
    rehearsed = False
    task = "classification"
    needs_teacher = True
    builds = "stillhouse.evaluation.augmentation:teacher_stddev"
    gives: ClassVar[dict[str, Measure]] = {
        "teacher_stddev": Measure("deviation of the teacher's mean answer to its training images", "lower")
    }
    data: dict[str, Annotated[DataKind, AnyKind("data")]]
    """By arm, what it trains on; other arms are left out."""
    draws: Annotated[int, Field(gt=1)] = 64
    """Means that are compared."""
    examples: Annotated[int, Field(gt=0)] = 640
    """Images in each, drawn with replacement."""


class HeadConflict(MetricKind):
    """Cosine between the gradients of two terms after training: of the head's parameters and of all others.

    Below zero, what lowers one term raises the other (Yang et al. 2024, arXiv:2411.08937, section 3).
    """

    kind: Literal["head-conflict"] = "head-conflict"
    task = "classification"
    needs_teacher = True
    builds = "stillhouse.evaluation.head_conflict:head_conflict"
    gives: ClassVar[dict[str, Measure]] = {
        "head_cosine": Measure("cosine of the terms' gradients in the head", "higher"),
        "backbone_cosine": Measure("cosine of the terms' gradients before the head", "higher"),
    }
    terms: Annotated[list[Term], Field(min_length=2, max_length=2)]
    head: str = "linear"
    """Module path of the head."""


class Features(MetricKind):
    """What the measurements of features share. A classifier is fitted on the training split without augmentation."""

    signal: str = "embedding"
    """Of the arm's network; maps are averaged over positions, tokens [B, T, D] over tokens."""
    examples: Annotated[int, Field(gt=0)] | None = None
    """Training examples whose labels are used, of each class its share; None takes all."""


class KNN(Features):
    """Accuracy of weighted nearest neighbours on the features (Wu et al. 2018, arXiv:1805.01978)."""

    kind: Literal["knn"] = "knn"
    task = "classification"
    builds = "stillhouse.evaluation.representation:knn"
    gives: ClassVar[dict[str, Measure]] = {"knn_accuracy": Measure("accuracy of nearest neighbours", "higher", "share")}
    neighbours: Annotated[int, Field(gt=0)] = 20
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """A neighbour's vote is exp(cos / temperature)."""


class LinearProbe(Features):
    """Accuracy of a logistic regression on the features (Alain & Bengio 2017, arXiv:1610.01644)."""

    kind: Literal["linear-probe"] = "linear-probe"
    rehearsed = False
    task = "classification"
    builds = "stillhouse.evaluation.representation:linear_probe"
    gives: ClassVar[dict[str, Measure]] = {"probe_accuracy": Measure("accuracy of a linear probe", "higher", "share")}
    inverse_penalty: Annotated[float, Field(gt=0)] = 1.0
    """The larger, the less the weights are held towards zero."""


class AttentionDistance(MetricKind):
    """How far a vision transformer looks: the distance between patches, averaged by attention.

    Dosovitskiy et al. 2021 (arXiv:2010.11929), figure 7. For the network `vit`.
    """

    kind: Literal["attention-distance"] = "attention-distance"
    builds = "stillhouse.evaluation.representation:attention_distance"
    gives: ClassVar[dict[str, Measure]] = {"attention_distance": Measure("attention distance in patches")}
    block: Annotated[int, Field(ge=0)] | None = None
    """Which block is looked at; None: the last."""


class ProbeTasks(Features):
    """Accuracy of a linear probe on each of several tasks, which are groups of classes: their mean, and the worst."""

    kind: Literal["probe-tasks"] = "probe-tasks"
    task = "classification"
    builds = "stillhouse.evaluation.representation:probe_tasks"
    gives: ClassVar[dict[str, Measure]] = {
        "probe_mean": Measure("accuracy of linear probes over tasks", "higher", "share"),
        "probe_worst": Measure("accuracy of a linear probe on the worst task", "higher", "share"),
    }
    tasks: Annotated[list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2)]], Field(min_length=2)]
    """The classes that each task tells apart."""
    inverse_penalty: Annotated[float, Field(gt=0)] = 1.0
    """The larger, the less the weights are held towards zero."""


class Agreement(MetricKind):
    """Share of test examples on which the arm and the teacher name the same class, in all, where the teacher is right
    and where it is wrong, and their KL divergence."""

    kind: Literal["agreement"] = "agreement"
    task = "classification"
    needs_teacher = True
    builds = "stillhouse.evaluation.classification:agreement"
    gives: ClassVar[dict[str, Measure]] = {
        "agreement": Measure("agreement with the teacher", "higher", "share"),
        "agreement_right": Measure("agreement where the teacher is right", "higher", "share"),
        "agreement_wrong": Measure("agreement where the teacher is wrong", "", "share"),
        "teacher_kl": Measure("KL from the teacher", "lower", "nats"),
    }


class Calibration(MetricKind):
    """Negative log-likelihood, Brier score and expected calibration error (Guo et al. 2017, arXiv:1706.04599)."""

    kind: Literal["calibration"] = "calibration"
    task = "classification"
    builds = "stillhouse.evaluation.classification:calibration"
    gives: ClassVar[dict[str, Measure]] = {
        "nll": Measure("negative log-likelihood", "lower", "nats"),
        "brier": Measure("Brier score", "lower"),
        "ece": Measure("expected calibration error", "lower", "share"),
    }
    bins: Annotated[int, Field(ge=2, le=100)] = 15


class GroupEffects(MetricKind):
    """Who learned what: the accuracy of the worst class, and what the teacher changed for each group of examples.

    The groups are the classes, and what the teacher knows of an example; each has student minus control with a
    paired interval in the report.
    """

    kind: Literal["group-effects"] = "group-effects"
    task = "classification"
    builds = "stillhouse.evaluation.groups:group_effects"
    gives: ClassVar[dict[str, Measure]] = {
        "worst_class": Measure("accuracy of the worst class", "higher", "share"),
    }
    fields: list[str] = []
    """Whole-numbered fields of the batch [B] that put examples into groups, beside class and teacher."""


class Robustness(MetricKind):
    """Accuracy on corrupted images, the mean over kinds of corruption and strengths; the curves in the report.

    The kinds are in the spirit of Hendrycks & Dietterich 2019 (arXiv:1903.12261), made for images of any size.
    """

    kind: Literal["robustness"] = "robustness"
    task = "classification"
    builds = "stillhouse.evaluation.robustness:robustness"
    gives: ClassVar[dict[str, Measure]] = {
        "robust_accuracy": Measure("accuracy on corrupted images", "higher", "share"),
    }
    corruptions: Annotated[list[Literal["noise", "blur", "shift", "occlusion", "contrast"]], Field(min_length=1)] = [
        "noise",
        "blur",
        "shift",
        "occlusion",
        "contrast",
    ]
    levels: Annotated[int, Field(ge=1, le=20)] = 4
    """Strengths of each, evenly up to the strongest; every one asks the network about the whole split once."""


class FeatureSimilarity(MetricKind):
    """Linear CKA between the layers of an arm and of the teacher (Kornblith et al. 2019, arXiv:1905.00414)."""

    kind: Literal["feature-similarity"] = "feature-similarity"
    needs_teacher = True
    builds = "stillhouse.evaluation.similarity:feature_similarity"
    gives: ClassVar[dict[str, Measure]] = {
        "cka": Measure("likeness to the teacher's features (CKA)"),
    }
    layers: list[str] | None = None
    """Module paths of the arm; None: its outermost layers with parameters, without normalisation."""
    teacher_layers: list[str] | None = None
    """The same of the teacher."""
    examples: Annotated[int, Field(ge=4)] = 512
    """The first so many of the split: memory and time grow with their square."""


class GradientConflict(MetricKind):
    """The cosine between the gradients of each pair of terms on the student's parameters, while it trains.

    Two terms conflict where it is negative (Yu et al. 2020, arXiv:2001.06782, definition 1).
    """

    kind: Literal["gradient-conflict"] = "gradient-conflict"
    builds = "stillhouse.evaluation.gradients:gradient_conflict"
    gives: ClassVar[dict[str, Measure]] = {
        "gradient_cosine": Measure("cosine between the terms' gradients"),
        "gradient_conflict": Measure("pairs of terms whose gradients conflict", "", "share"),
    }
    looks: Annotated[int, Field(ge=1)] = 40
    """How often in a stage, evenly; each costs one more backward pass a term."""


class Cost(MetricKind):
    """Parameters, floating-point operations (a multiply-add is two) and milliseconds an example."""

    kind: Literal["cost"] = "cost"
    rehearsed = False
    builds = "stillhouse.evaluation.cost:cost"
    gives: ClassVar[dict[str, Measure]] = {
        "parameters": Measure("parameters", "lower", "count", cost=True),
        "flops": Measure("FLOPs an example", "lower", "count", cost=True),
        "milliseconds": Measure("time an example", "lower", "ms", cost=True),
    }
    batch_size: Annotated[int, Field(gt=0)] = 256
    """Examples answered at a time."""
