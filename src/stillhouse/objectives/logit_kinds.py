"""The terms on logits beyond `kl`, `reverse_kl`, `jsd`, `cross_entropy` and `mse`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stillhouse.objectives.kinds import LABELS, Distance, FeatureTerm, Temperature, TermKind

Open = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class L1(Distance):
    """Absolute difference, averaged over all but the batch dimension; over the classes where it is on logits."""

    by: Literal["l1"] = "l1"
    builds = "stillhouse.objectives.divergences:l1"


class SoftCrossEntropy(TermKind):
    """T^2 times the cross-entropy on the teacher's soft targets, Hinton et al. 2015 (arXiv:1503.02531)."""

    by: Literal["soft_cross_entropy"] = "soft_cross_entropy"
    builds = "stillhouse.objectives.logits:soft_cross_entropy"
    temperature: Temperature = 1.0
    teacher_temperature: Temperature | None = None
    """The teacher's, where it is another than the student's."""
    squared: bool = True
    """Multiply by T^2."""


class HardCrossEntropy(TermKind):
    """Cross-entropy on the teacher's most likely class, Touvron et al. 2021 (DeiT, arXiv:2012.12877).

    A distillation token's logits are named by `signal`, with `teacher_signal: logits`.
    """

    by: Literal["hard_cross_entropy"] = "hard_cross_entropy"
    builds = "stillhouse.objectives.logits:hard_cross_entropy"


class PermutedKL(TermKind):
    """KL to a teacher whose less likely classes change places, Furlanello et al. 2018 (DKPP, arXiv:1805.04770).

    A control: what is left of it is how sure the teacher is.
    """

    by: Literal["permuted_kl"] = "permuted_kl"
    builds = "stillhouse.objectives.logits:permuted_kl"
    takes: ClassVar[tuple[str, ...]] = ("index",)
    temperature: Temperature = 1.0
    squared: bool = True
    """Multiply by T^2."""


class EnsembleKL(TermKind):
    """KL from the teacher to the mean of the student's probabilities and those of earlier students.

    `teacher_signal` names the teacher's logits and then theirs: [teacher.logits, first.logits, second.logits].
    """

    by: Literal["ensemble_kl"] = "ensemble_kl"
    builds = "stillhouse.objectives.logits:ensemble_kl"
    same_shape: ClassVar[bool] = False
    teacher_signal: Annotated[list[str], Field(min_length=2)] = Field(...)
    temperature: Temperature = 1.0
    squared: bool = True
    """Multiply by T^2."""


class VirtualTeacherKL(TermKind):
    """Label smoothing as a teacher made by hand, Yuan et al. 2020 (Tf-KD_reg, arXiv:1909.11723)."""

    by: Literal["virtual_teacher_kl"] = "virtual_teacher_kl"
    builds = "stillhouse.objectives.logits:virtual_teacher_kl"
    signal: Literal["labels"] = "labels"
    teacher_signal: None = None
    correct: Annotated[float, Field(gt=0, le=1)] = 0.99
    """The virtual teacher's probability of the label, before its temperature."""
    temperature: Temperature = 20.0
    student_temperature: Temperature = 1.0


class Decoupled(TermKind):
    """Decoupled KD, Zhao et al. 2022 (DKD, arXiv:2203.08679)."""

    by: Literal["decoupled"] = "decoupled"
    builds = "stillhouse.objectives.logits:decoupled"
    takes: ClassVar[tuple[str, ...]] = (LABELS,)
    alpha: float = 1.0
    """Weight of true class against the rest."""
    beta: float = 8.0
    """Weight of the other classes among themselves."""
    temperature: Temperature = 4.0


class StandardisedKL(TermKind):
    """KL of logits brought to mean 0 and deviation 1, Sun et al. 2024 (arXiv:2403.01427)."""

    by: Literal["standardised_kl"] = "standardised_kl"
    builds = "stillhouse.objectives.logits:standardised_kl"
    temperature: Temperature = 2.0
    unbiased: bool = False
    """Variance with V - 1, as in the authors' code."""

    @property
    def teacher_temperatures(self) -> set[float]:
        return {1.0}


class DISTInter(TermKind):
    """1 - correlation of an example's two distributions, Huang et al. 2022 (DIST, arXiv:2205.10536)."""

    by: Literal["dist_inter"] = "dist_inter"
    builds = "stillhouse.objectives.logits:dist_inter"
    temperature: Temperature = 1.0
    squared: bool = True
    """Multiply by T^2."""


class DISTIntra(TermKind):
    """1 - correlation over the batch of a class's probabilities, DIST; one value a class."""

    by: Literal["dist_intra"] = "dist_intra"
    builds = "stillhouse.objectives.logits:dist_intra"
    temperature: Temperature = 1.0
    squared: bool = True
    """Multiply by T^2."""


class _ManyTemperatures(TermKind):
    temperatures: Annotated[tuple[Temperature, ...], Field(min_length=1)] = (2.0, 3.0, 4.0, 5.0, 6.0)

    @property
    def teacher_temperatures(self) -> set[float]:
        return set(self.temperatures)


class MultiTemperatureKL(_ManyTemperatures):
    """T^2 KL summed over temperatures: the instance level of Jin et al., CVPR 2023 (multi-level logit KD)."""

    by: Literal["multi_temperature_kl"] = "multi_temperature_kl"
    builds = "stillhouse.objectives.logits:multi_temperature_kl"


class BatchGram(_ManyTemperatures):
    """How alike the predictions for two examples are: the batch level of Jin et al., CVPR 2023."""

    by: Literal["batch_gram"] = "batch_gram"
    builds = "stillhouse.objectives.logits:batch_gram"


class ClassGram(_ManyTemperatures):
    """How alike two classes are over the batch: the class level of Jin et al., CVPR 2023; one value a class."""

    by: Literal["class_gram"] = "class_gram"
    builds = "stillhouse.objectives.logits:class_gram"


class PlackettLuce(TermKind):
    """The teacher's ranking after the true class, choice by choice, Bassam et al. 2025 (PLD, arXiv:2506.12542)."""

    by: Literal["plackett_luce"] = "plackett_luce"
    builds = "stillhouse.objectives.logits:plackett_luce"
    takes: ClassVar[tuple[str, ...]] = (LABELS,)
    teacher_temperature: Temperature = 1.0
    """Of the confidences that weigh the choices."""


class TargetEnhanced(FeatureTerm):
    """Soft cross-entropy that stresses the true class, Hao et al. 2023 (one-for-all, arXiv:2310.19444).

    On `features.<tap>` with `project: exit` and `teacher_signal: logits` it trains an exit branch of the student.
    """

    by: Literal["target_enhanced"] = "target_enhanced"
    builds = "stillhouse.objectives.logits:target_enhanced"
    takes: ClassVar[tuple[str, ...]] = (LABELS,)
    gamma: Positive = 1.0
    temperature: Temperature = 1.0
    published: Literal["text", "code"] = "text"
    """The paper's formula holds the labels' cross-entropy; that of the authors' code does not."""


class SkewKL(TermKind):
    """KL(teacher || alpha teacher + (1 - alpha) student), Ko et al. 2024 (DistiLLM, arXiv:2402.03898)."""

    by: Literal["skew_kl"] = "skew_kl"
    builds = "stillhouse.objectives.divergences:skew_kl"
    alpha: Open = 0.1
    temperature: Temperature = 1.0


class SkewReverseKL(TermKind):
    """KL(student || (1 - alpha) teacher + alpha student), Ko et al. 2024 (DistiLLM, arXiv:2402.03898)."""

    by: Literal["skew_reverse_kl"] = "skew_reverse_kl"
    builds = "stillhouse.objectives.divergences:skew_reverse_kl"
    alpha: Open = 0.1
    temperature: Temperature = 1.0


class AlphaBeta(TermKind):
    """The alpha-beta divergence, Wang et al. 2025 (ABKD, arXiv:2505.04560)."""

    by: Literal["alpha_beta"] = "alpha_beta"
    builds = "stillhouse.objectives.divergences:alpha_beta"
    alpha: Positive
    """The smaller, the more the student's large errors count."""
    beta: Positive
    """The larger, the more the classes the student is sure of count."""
    temperature: Temperature = 1.0
    squared: bool = True
    """Multiply by T^2."""


class TotalVariation(TermKind):
    """Half the sum of absolute differences of probabilities, Wen et al. 2023 (f-DISTILL, arXiv:2307.15190)."""

    by: Literal["total_variation"] = "total_variation"
    builds = "stillhouse.objectives.divergences:total_variation"
    temperature: Temperature = 1.0


class ConditionalInformation(TermKind):
    """What an answer tells of an example beyond its class, Ye et al. 2024 (MCMI, arXiv:2401.08732).

    With a weight below zero, beside `cross_entropy`, it prepares a teacher.
    """

    by: Literal["conditional_information"] = "conditional_information"
    builds = "stillhouse.objectives.logits:conditional_information"
    signal: Literal["labels"] = "labels"
    teacher_signal: None = None


class BinaryKL(FeatureTerm):
    """KL of each class's sigmoid, for multi-label answers, Yang et al. 2023 (arXiv:2308.06453)."""

    by: Literal["binary_kl"] = "binary_kl"
    builds = "stillhouse.objectives.logits:binary_kl"
    temperature: Temperature = 1.0
    squared: bool = True
    """Multiply by T^2."""


class BinaryKLNorm(FeatureTerm):
    """KL of one half and the sigmoid of the logits' difference, Yang et al. 2024 (DHKD, arXiv:2411.08937).

    Their auxiliary head is `project: linear` on the features that the student's own head sees:
    `signal: features.pool, teacher_signal: logits`.
    """

    by: Literal["binary_kl_norm"] = "binary_kl_norm"
    builds = "stillhouse.objectives.logits:binary_kl_norm"
    temperature: Temperature = 2.0


class Discriminator(TermKind):
    """A small network tells student's from teacher's logits, and the student deceives it.

    Shen & Savvides 2020 (MEAL V2, arXiv:2009.08453), section 3.3.
    """

    by: Literal["discriminator"] = "discriminator"
    builds = "stillhouse.objectives.logit_parts:Discriminator"
    width: Annotated[int, Field(gt=0)] = 16
    """Of its one hidden layer."""


class BinaryCrossEntropy(TermKind):
    """Multi-label answers against the data's labels: zeros and ones, or probabilities, one for each class."""

    by: Literal["binary_cross_entropy"] = "binary_cross_entropy"
    builds = "stillhouse.objectives.logits:binary_cross_entropy"
    signal: Literal["labels"] = "labels"
    teacher_signal: None = None


class BoundedRegression(TermKind):
    """Squared error where the student is not better than the teacher by a margin, Chen et al. 2017 (NeurIPS)."""

    by: Literal["bounded_regression"] = "bounded_regression"
    builds = "stillhouse.objectives.logits:bounded_regression"
    takes: ClassVar[tuple[str, ...]] = (LABELS,)
    margin: NotNegative = 0.0
