"""The terms on features that a recipe may name under `by`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stillhouse.objectives.kinds import FeatureTerm, TermKind

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class AttentionTransfer(TermKind):
    """Spatial attention maps, Zagoruyko & Komodakis 2017 (arXiv:1612.03928). Widths and resolutions may differ."""

    by: Literal["attention_transfer"] = "attention_transfer"
    builds = "stillhouse.objectives.features:attention_transfer"
    same_shape: ClassVar[bool] = False
    form: Literal["code", "paper"] = "code"
    """The authors' code (mean squared difference) or the paper's eq. 2 (2-norm of the difference)."""
    power: Positive = 2.0
    """Of the activations, before they are summed over the channels."""


class SimilarityPreserving(TermKind):
    """Similarities within the batch, Tung & Mori 2019 (arXiv:1907.09682)."""

    by: Literal["similarity_preserving"] = "similarity_preserving"
    builds = "stillhouse.objectives.features:similarity_preserving"
    same_shape: ClassVar[bool] = False


class PKT(TermKind):
    """Neighbour probabilities within the batch, Passalis & Tefas 2018 (arXiv:1803.10837)."""

    by: Literal["pkt"] = "pkt"
    builds = "stillhouse.objectives.features:probabilistic"
    same_shape: ClassVar[bool] = False
    signal: str = Field(...)


class NST(TermKind):
    """Distributions of the channels' maps by squared MMD, Huang & Wang 2017 (arXiv:1707.01219)."""

    by: Literal["nst"] = "nst"
    builds = "stillhouse.objectives.features:neuron_selectivity"
    same_shape: ClassVar[bool] = False
    kernel: Literal["linear", "polynomial", "gaussian"] = "polynomial"


class FSP(FeatureTerm):
    """What a layer makes of the one before, Yim et al. 2017 (CVPR): `signal` lists two layers or more."""

    by: Literal["fsp"] = "fsp"
    builds = "stillhouse.objectives.features:solution_flow"
    signal: Annotated[list[str], Field(min_length=2)] = Field(...)


class ICKD(FeatureTerm):
    """Correlations between channels, Liu et al. 2021 (ICCV)."""

    by: Literal["ickd"] = "ickd"
    builds = "stillhouse.objectives.features:inter_channel"
    signal: str = Field(...)


class Cosine(FeatureTerm):
    """One minus the cosine of the two vectors at each position (Sanh et al. 2019, arXiv:1910.01108)."""

    by: Literal["cosine"] = "cosine"
    builds = "stillhouse.objectives.features:cosine"


class UnitCorrelation(FeatureTerm):
    """One minus the correlation of each unit with the teacher's of the same number (Flex-KD, arXiv:2507.10155)."""

    by: Literal["unit_correlation"] = "unit_correlation"
    builds = "stillhouse.objectives.features:unit_correlation"


class SmoothL1(FeatureTerm):
    """Smooth L1 to the teacher's features, standardised (Wei et al. 2022, arXiv:2205.14141)."""

    by: Literal["smooth_l1"] = "smooth_l1"
    builds = "stillhouse.objectives.features:standardised_smooth_l1"
    beta: Positive = 2.0
    """Where the square goes over into the absolute value."""


class FrequencyBands(FeatureTerm):
    """Distance band by band of a Haar transform, after FreeKD, Zhang et al. 2023 (arXiv:2311.12079)."""

    by: Literal["frequency_bands"] = "frequency_bands"
    builds = "stillhouse.objectives.features:frequency_bands"
    signal: str = Field(...)
    levels: Count = 1
    """How often the low band is split."""
    low: float = 0.0
    """Weight of the last low band."""
    high: float = 1.0
    """Weight of the high bands."""


class FrequencyPrompts(TermKind):
    """High bands of a Haar transform where learned prompts look: FreeKD, Zhang et al. 2024 (arXiv:2311.12079)."""

    by: Literal["frequency_prompts"] = "frequency_prompts"
    builds = "stillhouse.objectives.bands:FrequencyPrompts"
    same_shape: ClassVar[bool] = False
    takes = ("labels",)
    signal: str = Field(...)
    classes: Annotated[int, Field(gt=1)]
    prompts: Count = 2
    """Of each band."""
    levels: Count = 1
    """How often the low band is split; the authors' code takes 3."""


class FactorTransfer(TermKind):
    """Factors of the teacher's features, found in the student's, Kim et al. 2018 (arXiv:1802.04977)."""

    by: Literal["factor_transfer"] = "factor_transfer"
    builds = "stillhouse.objectives.feature_parts:FactorTransfer"
    same_shape: ClassVar[bool] = False
    signal: str = Field(...)
    ratio: Positive = 0.5
    """Channels of a factor, as a share of the teacher's."""


class ActivationBoundary(TermKind):
    """Which neurons are on, Heo et al. 2019 (arXiv:1811.03233). Tap before the ReLU."""

    by: Literal["activation_boundary"] = "activation_boundary"
    builds = "stillhouse.objectives.feature_parts:ActivationBoundary"
    same_shape: ClassVar[bool] = False
    signal: str = Field(...)
    margin: Positive = 1.0


class VID(TermKind):
    """Variational information distillation, Ahn et al. 2019 (arXiv:1904.05835)."""

    by: Literal["vid"] = "vid"
    builds = "stillhouse.objectives.feature_parts:VariationalInformation"
    same_shape: ClassVar[bool] = False
    signal: str = Field(...)
    variance: Positive = 5.0
    """Of each channel, at the start."""


class Overhaul(TermKind):
    """Margin ReLU and partial distance, Heo et al. 2019 (arXiv:1904.01866). Tap before the ReLU."""

    by: Literal["overhaul"] = "overhaul"
    builds = "stillhouse.objectives.feature_parts:Overhaul"
    same_shape: ClassVar[bool] = False
    signal: str = Field(...)


class KnowledgeReview(TermKind):
    """Deeper layers reviewed by shallower ones, Chen et al. 2021 (arXiv:2104.09044); layers from first to last."""

    by: Literal["knowledge_review"] = "knowledge_review"
    builds = "stillhouse.objectives.feature_parts:KnowledgeReview"
    same_shape: ClassVar[bool] = False
    signal: Annotated[list[str], Field(min_length=1)] = Field(...)
    width: Count = 512
    """Of the fused features, at most that of the student's last layer."""


class SemCKD(TermKind):
    """Every layer with every one of the teacher's, by attention, Chen et al. 2021 (arXiv:2012.03236)."""

    by: Literal["semckd"] = "semckd"
    builds = "stillhouse.objectives.feature_parts:SemanticCalibration"
    same_shape: ClassVar[bool] = False
    batch_size: Count
    """Examples of a batch in training: the embedding of an example is of its similarities to all of them."""
    factor: Count = 4
    """By how much the embedding is narrower than that."""


class VkD(TermKind):
    """An orthogonal projector and standardised targets, Miles et al. 2024 (arXiv:2403.06213)."""

    by: Literal["vkd"] = "vkd"
    builds = "stillhouse.objectives.projected_parts:OrthogonalProjection"
    same_shape: ClassVar[bool] = False
    signal: str = Field(...)
    targets: Literal["standardised", "whitened"] = "standardised"
    """What is done to the teacher's features: over their channels, for discrimination; or over the batch, for
    generation."""


class ProjectorEnsemble(TermKind):
    """The mean of several projectors, Chen et al. 2022 (arXiv:2210.15274)."""

    by: Literal["projector_ensemble"] = "projector_ensemble"
    builds = "stillhouse.objectives.projected_parts:ProjectorEnsemble"
    same_shape: ClassVar[bool] = False
    signal: str = Field(...)
    projectors: Count = 3


class LadderProjector(TermKind):
    """UNIC: one target from several depths, Sariyildiz et al. 2024 (arXiv:2408.05088)."""

    by: Literal["ladder"] = "ladder"
    builds = "stillhouse.objectives.projected_parts:LadderProjector"
    same_shape: ClassVar[bool] = False
    teacher_signal: str = Field(...)
    hidden: Count = 768
    """Units of each perceptron."""
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of a batch in the statistics of the teacher's features."""


class Codes(TermKind):
    """Cross-entropy to the codes of the teacher's features, which a codebook holds (CTSL, arXiv:2507.16612)."""

    by: Literal["codes"] = "codes"
    builds = "stillhouse.objectives.codebook:Codes"
    same_shape: ClassVar[bool] = False
    signal: str = Field(...)
    codes: Annotated[int, Field(gt=1)] = 64
    """Of the book."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Of the moving averages by which the book follows the teacher."""


class MaskedGeneration(TermKind):
    """MGD: the teacher's features from the student's masked ones, Yang et al. 2022 (arXiv:2205.01529)."""

    by: Literal["masked_generation"] = "masked_generation"
    builds = "stillhouse.objectives.feature_parts:MaskedGeneration"
    same_shape: ClassVar[bool] = False
    signal: str = Field(...)
    mask: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of what is set to zero."""
    over: Literal["positions", "channels"] = "positions"


class CrossLayerAttention(TermKind):
    """AFD: which layers to compare, by attention, Ji et al. 2021 (arXiv:2102.02973)."""

    by: Literal["cross_layer_attention"] = "cross_layer_attention"
    builds = "stillhouse.objectives.feature_parts:CrossLayerAttention"
    same_shape: ClassVar[bool] = False
    width: Count = 128
    """Of queries and keys."""
