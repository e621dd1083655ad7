"""The methods of several teachers that a recipe may name. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.engine.settings import Fraction
from stillhouse.methods.kinds import Match, MethodKind, Term
from stillhouse.objectives.kinds import CrossEntropy, Temperature


class TeacherSelection(MethodKind):
    """A policy picks the teachers of every example, rewarded by the student (Yuan et al. 2021, arXiv:2012.06048).

    The policy is a player: `train.players.policy` sets what it does otherwise.
    """

    kind: Literal["teacher-selection"] = "teacher-selection"
    builds = "stillhouse.methods.teacher_selection:TeacherSelection"
    temperature: Temperature = 2.0
    """Of the divergence from the picked teachers' answers."""
    share: Fraction = 0.5
    """The paper's alpha: of the divergence against the cross-entropy on labels."""
    state: str = "logits"
    """The student's signal that tells the policy which example it sees; vectors [B, D]."""

    def without_teacher(self) -> Match:
        return Match(terms=[CrossEntropy(signal="labels")])


class TeacherDropping(MethodKind):
    """Terms towards several teachers, of which the largest always counts (Sariyildiz et al. 2024, arXiv:2408.05088).

    One term a teacher, each with one value an example.
    """

    kind: Literal["teacher-dropping"] = "teacher-dropping"
    builds = "stillhouse.methods.teacher_dropping:TeacherDropping"
    terms: Annotated[list[Term], Field(min_length=2)]
    drop: Fraction = 0.5
    """Chance that an example forgoes a teacher which is not the one it is furthest from."""


class SimilarSources(MethodKind):
    """Source models weighted by how well their features fit the target's labels (Borup et al. 2023, arXiv:2304.12314).

    Each source has a head of its own on the student, which is gone at export. The labels may be few: data of kind
    `partly-labelled`.
    """

    kind: Literal["similar-sources"] = "similar-sources"
    builds = "stillhouse.methods.similar_sources:SimilarSources"
    source_signal: str
    """The sources' features that are held against the labels, vectors [B, D]."""
    signal: str
    """The student's features that its heads read, vectors [B, D]."""
    power: Annotated[float, Field(ge=0)] = 9.0
    """Of the similarities before they become weights: 0 weighs all sources alike, a large one takes the nearest."""
    share: Fraction = 0.8
    """The paper's lambda: of the labels against the sources."""

    def without_teacher(self) -> Match:
        return Match(terms=[CrossEntropy(signal="labels")])


class SpecialisedTeachers(MethodKind):
    """Masked specialists of several teachers, routed by example (Li et al. 2025, MST-Distill, arXiv:2507.07015)."""

    kind: Literal["specialised-teachers"] = "specialised-teachers"
    builds = "stillhouse.methods.specialised_teachers:SpecialisedTeachers"
    taps: Annotated[list[str], Field(min_length=1)]
    """Module paths of layers of the teachers; each gives every teacher one specialist."""
    top: Annotated[int, Field(gt=0)] = 1
    """Specialists that teach an example: the paper's k."""
    temperature: Temperature = 4.0
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Of the divergence from the specialists."""
    balance: Annotated[float, Field(ge=0)] = 1.0
    """Of the router's load balancing."""
    phases: tuple[Fraction, Fraction] = (0.3, 0.2)
    """Shares of the stage for the first two phases."""

    def without_teacher(self) -> Match:
        return Match(terms=[CrossEntropy(signal="labels")])


class FidelityRealness(MethodKind):
    """Enlarged images that are near to one teacher's and pass for another's, as much as a scalar says.

    After Li et al. 2025 (CTSR, arXiv:2503.14272). Without a teacher both are the data: a network trained against a
    critic (Ledig et al. 2017, arXiv:1609.04802), which may be a teacher of realness.
    """

    kind: Literal["fidelity-realness"] = "fidelity-realness"
    builds = "stillhouse.methods.fidelity_realness:FidelityRealness"
    fidelity: str = "fidelity.logits"
    """The signal of the teacher whose images are to be met pixel by pixel: of its member `fidelity`."""
    realness: str = "realness.logits"
    """The signal of the teacher whose images are to be passed for: of its member `realness`."""
    realness_by: Literal["critic", "pixels"] = "critic"
    """How that is judged; `pixels` leaves the student the mean of both teachers' images, each by its share."""
    weight: Annotated[float, Field(ge=0)] = 0.03
    """Of realness where the scalar is 1, against the mean squared error to the teacher of fidelity."""
    critic: list[Annotated[int, Field(gt=0)]] = [256, 256]
    """Width of each hidden layer of the critic. It is a player: `train.players.critic` sets what it does otherwise."""


class TreeDistillation(MethodKind):
    """A parser learns the average of other parsers' trees (Shayegh et al. 2024, arXiv:2310.01717)."""

    kind: Literal["tree-distillation"] = "tree-distillation"
    builds = "stillhouse.methods.tree_distillation:TreeDistillation"
    of: Literal["average", "union"] | Annotated[int, Field(ge=0)] = "average"
    """The tree that is learnt: the average of the parsers', every one of them, or one parser's by its number."""


class GranularitySelection(MethodKind):
    """Features of a scene, from the granularity its views agree on (Peng et al. 2024, GAGS, arXiv:2412.13654)."""

    kind: Literal["granularity-selection"] = "granularity-selection"
    builds = "stillhouse.methods.granularity_selection:GranularitySelection"
    by: Literal["learned", "average"] | Annotated[int, Field(ge=0, le=2)] = "learned"
    """Whose targets count: as each Gaussian learns to trust them, all alike, or one granularity's by its number."""


class MetaExperts(MethodKind):
    """A learnt step of distillation from experts of other domains (Zhong et al. 2022, Meta-DMoE, arXiv:2210.03885)."""

    kind: Literal["meta-experts"] = "meta-experts"
    builds = "stillhouse.methods.meta_experts:MetaExperts"
