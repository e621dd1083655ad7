"""Terms on relations between examples or tokens, and contrastive terms. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from stillhouse.objectives.kinds import Temperature, TermKind

Heads = Annotated[int, Field(gt=0)]


class RelationTerm(TermKind):
    """A term on how examples stand to each other within a side: the sides may differ in width."""

    same_shape: ClassVar[bool] = False
    signal: str = "logits"
    teacher_signal: str | None = None


class RelationalDistance(RelationTerm):
    """Distances between the examples of a batch, over their mean: RKD-D, Park et al. 2019 (arXiv:1904.05068).

    The authors' example gives it weight 1, Tian et al. 2020 (arXiv:1910.10699) 25; it is a mean over pairs.
    """

    by: Literal["rkd_distance"] = "rkd_distance"
    builds = "stillhouse.objectives.relations:relational_distance"


class RelationalAngle(RelationTerm):
    """Angles between triplets of a batch: RKD-A, Park et al. 2019 (arXiv:1904.05068).

    Twice the weight of the distances, usually; it is a mean over triplets, and needs memory for B^3 of them.
    """

    by: Literal["rkd_angle"] = "rkd_angle"
    builds = "stillhouse.objectives.relations:relational_angle"


class CorrelationCongruence(RelationTerm):
    """Kernel matrices of a batch: correlation congruence, Peng et al. 2019 (arXiv:1904.01802)."""

    by: Literal["correlation_congruence"] = "correlation_congruence"
    builds = "stillhouse.objectives.relations:correlation_congruence"
    gamma: Annotated[float, Field(gt=0)] = 0.4
    """Width of the Gaussian kernel."""
    order: Annotated[int, Field(gt=0)] = 2
    """Highest power of its Taylor series."""


class CentredAlignment(RelationTerm):
    """One minus the linear centred kernel alignment of a batch, Kornblith et al. 2019 (arXiv:1905.00414)."""

    by: Literal["cka"] = "cka"
    builds = "stillhouse.objectives.relations:centred_alignment"


class MutualInformation(RelationTerm):
    """MI-alpha: a bound on the mutual information of both sides' features, He et al. 2021 (arXiv:2109.11105)."""

    by: Literal["mi_alpha"] = "mi_alpha"
    builds = "stillhouse.objectives.information:MutualInformation"
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9
    """1 is InfoNCE, 0 the TUBA bound: less bias, more variance."""
    hidden: Annotated[int, Field(gt=0)] = 512
    """Units of the critic's and the baseline's hidden layers."""
    width: Annotated[int, Field(gt=0)] = 32
    """Of the critic's embeddings."""


class CRD(RelationTerm):
    """Contrastive representation distillation with a memory bank, Tian et al. 2020 (arXiv:1910.10699).

    The student is trained through embeddings of its own, which are gone at export.
    """

    by: Literal["crd"] = "crd"
    builds = "stillhouse.objectives.contrast:CRD"
    takes = ("index",)
    may_take = ("labels",)
    examples: Annotated[int, Field(gt=1)]
    """Rows of the bank: the number of training examples."""
    negatives: Annotated[int, Field(gt=0)] = 16384
    """Drawn for each example, with replacement."""
    other_classes: bool = True
    """Draw them from other classes than the example's (needs labels), or from all other examples."""
    width: Annotated[int, Field(gt=0)] = 128
    """Of the embeddings."""
    temperature: Temperature = 0.07
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the old row that stays when an example is seen again."""
    partition: bool = True
    """Divide scores by their mean over the first batch times the number of examples, as the authors' code does."""


class BatchContrast(RelationTerm):
    """Contrast within the batch (InfoNCE; CRD's embeddings without a bank).

    Tian et al. 2020 (arXiv:1910.10699) with the objective of van den Oord et al. 2018 (arXiv:1807.03748), eq. 4.
    """

    by: Literal["batch_contrast"] = "batch_contrast"
    builds = "stillhouse.objectives.contrast:BatchContrast"
    may_take = ("labels",)
    other_classes: bool = True
    """Leave examples of the same class out of the negatives (needs labels), or take all other examples."""
    width: Annotated[int, Field(gt=0)] = 128
    """Of the embeddings."""
    temperature: Temperature = 0.07


class RegionContrast(RelationTerm):
    """Contrast within the batch of local regions at several scales, Wang et al. 2025 (MSDCRD, arXiv:2502.05835)."""

    by: Literal["region_contrast"] = "region_contrast"
    builds = "stillhouse.objectives.contrast:RegionContrast"
    may_take = ("labels",)
    signal: str = Field(...)
    windows: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0, 2]
    """Sides of the windows in pixels of the feature map; 0: the whole map."""
    classes: Annotated[int, Field(gt=1)] | None = None
    """Sort the windows by what is recognised in each, among so many classes (needs labels)."""
    other_classes: bool = True
    """Leave examples of the same class out of the negatives (needs labels), or take all other examples."""
    width: Annotated[int, Field(gt=0)] = 128
    """Of the embeddings."""
    temperature: Temperature = 0.07

    @model_validator(mode="after")
    def _sorted_for_something(self) -> RegionContrast:
        if self.classes and not self.other_classes:
            raise ValueError("'classes' sorts windows to leave those of one class out, which needs other_classes: true")
        return self


class TokenGraph(RelationTerm):
    """Graphs of nearest tokens over the batch, and of the tokens of an image, Zhang et al. 2023 (arXiv:2306.12442)."""

    by: Literal["token_graph"] = "token_graph"
    builds = "stillhouse.objectives.token_graph:token_graph"
    signal: str = Field(...)
    neighbours: Annotated[int, Field(gt=1)] = 16
    """Of each token among the nodes of the batch's graph, by the teacher."""
    temperature: Temperature = 0.1
    """Of the softmax over similarities."""
    contextual: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the graph within an image, beside the one over the batch."""
    sampled: Annotated[int, Field(gt=1)] | None = None
    """Tokens drawn from the batch to be the nodes of its graph; by default all are."""


class TokenRelationTerm(TermKind):
    """A term on how the tokens of an example stand to each other; padding is left out where the batch tells it.

    The signal is a list of queries, keys and values, such as `features.layers.5.self_attn.q_proj`.
    """

    same_shape: ClassVar[bool] = False
    may_take = ("attention_mask",)
    causal: bool = False
    """A token looks at itself and those before it, as in a causal language model."""


class AttentionRelations(TokenRelationTerm):
    """Relations between queries, keys and values: MiniLMv2 (arXiv:2012.15828).

    MiniLM (arXiv:2002.10957) with `relations: [qk, vv]`.
    """

    by: Literal["attention_relations"] = "attention_relations"
    builds = "stillhouse.objectives.token_relations:attention_relations"
    heads: Heads
    """Slices of the width, on both sides: MiniLMv2's relation heads, MiniLM's attention heads."""
    relations: Annotated[list[Literal["qk", "qq", "kk", "vv"]], Field(min_length=1)] = ["qq", "kk", "vv"]


class AttentionScores(TokenRelationTerm):
    """Attention before its softmax: TinyBERT, Jiao et al. 2020 (arXiv:1909.10351), eq. 7."""

    by: Literal["attention_scores"] = "attention_scores"
    builds = "stillhouse.objectives.token_relations:attention_scores"
    heads: Heads
    """Attention heads, as many on both sides."""


class HeadMap(TokenRelationTerm):
    """A learned map from the student's attention heads to the teacher's: align-to-distill.

    Jin et al. 2024 (arXiv:2403.01479). The signals are queries and keys of each layer in turn.
    """

    by: Literal["head_map"] = "head_map"
    builds = "stillhouse.objectives.token_relations:HeadMap"
    heads: Heads
    """The student's attention heads in a layer."""
    teacher_heads: Heads


class TaskFilters(TermKind):
    """Layers compared through filters that keep what the task needs: TED, Liang et al. 2023 (arXiv:2210.01351)."""

    same_shape: ClassVar[bool] = False
    by: Literal["task_filters"] = "task_filters"
    builds = "stillhouse.objectives.token_relations:TaskFilters"
    takes = ("labels",)
    classes: Annotated[int, Field(gt=1)]
    width: Annotated[int, Field(gt=0)] | None = None
    """Of what the filters give; by default the teacher's."""


class BandContrast(TermKind):
    """Contrast within the batch of what lies in a band of frequencies, Li et al. 2023 (GloReDi, arXiv:2308.08463)."""

    by: Literal["band_contrast"] = "band_contrast"
    builds = "stillhouse.objectives.bands:band_contrast"
    signal: str = Field(...)
    low: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Where the band begins, as a share of the highest frequency."""
    high: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Where it ends."""
    temperature: Temperature = 0.1
