"""Weights of single examples (or tokens), which a term may name under `gate`. Imports no torch.

A gate multiplies the unreduced values of a term, and the engine still divides by how many there are. So an
example's gradient does not depend on which other examples are gated, terms go on counting the same things
under accumulation, and gates fit losses of every kind, one of each example at least. Every gate looks at
logits and labels alone, without gradient, whatever the term itself compares.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stillhouse.kinds import Kind

Share = Annotated[float, Field(ge=0, le=1)]
Side = Literal["teacher", "student"]


class GateKind(Kind):
    """A weight for each example: a function of what `looks_at` names, in that order, and of its own fields."""

    family: ClassVar[str] = "gate"
    tag: ClassVar[str] = "by"

    @property
    def looks_at(self) -> tuple[str, ...]:
        """Of `teacher`, `student` (their logits) and `labels`."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it looks at")

    @property
    def options(self) -> dict[str, object]:
        """The keyword options of the function."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in (self.tag, "of")}


class Confidence(GateKind):
    """The largest probability; with `at_least`, one where it reaches that and zero elsewhere."""

    by: Literal["confidence"] = "confidence"
    builds = "stillhouse.objectives.logit_weights:confidence"
    of: Side = "teacher"
    at_least: Share | None = None
    temperature: Annotated[float, Field(gt=0)] = 1.0

    @property
    def looks_at(self) -> tuple[str, ...]:
        return (self.of,)


class Entropy(GateKind):
    """One minus the entropy over its largest value, log V; or that quotient, to favour what is uncertain."""

    by: Literal["entropy"] = "entropy"
    builds = "stillhouse.objectives.logit_weights:entropy"
    of: Side = "teacher"
    favours: Literal["certain", "uncertain"] = "certain"
    temperature: Annotated[float, Field(gt=0)] = 1.0

    @property
    def looks_at(self) -> tuple[str, ...]:
        return (self.of,)


class EntropyGap(GateKind):
    """One weight where the teacher is the less certain of the two, another where the student is.

    Amara et al. 2022 (BD-KD, arXiv:2212.12965) weigh the forward KL with the one and the reverse KL with the other.
    """

    by: Literal["entropy_gap"] = "entropy_gap"
    builds = "stillhouse.objectives.logit_weights:entropy_gap"
    teacher_higher: float = 2.0
    """Where the entropy of the teacher's answer is the higher one: the student is too sure."""
    student_higher: float = 1.0
    """Where it is not."""
    temperature: Annotated[float, Field(gt=0)] = 1.0

    @property
    def looks_at(self) -> tuple[str, ...]:
        return ("student", "teacher")


class Disagreement(GateKind):
    """One weight where the two most likely classes differ, another where they are one.

    Amara et al. 2023 (dynamic corrective self-distillation, arXiv:2312.07028) weigh an example more while the student
    answers it otherwise than its teacher.
    """

    by: Literal["disagreement"] = "disagreement"
    builds = "stillhouse.objectives.logit_weights:disagreement"
    apart: float = 2.0
    same: float = 1.0

    @property
    def looks_at(self) -> tuple[str, ...]:
        return ("student", "teacher")


class HighestEntropy(GateKind):
    """The share of a batch that is least certain, each with 1 / share; zero for the others.

    CutMixPick of Wang et al. 2022 (arXiv:2012.02909), section 3.3: of twice as many candidates as a batch should
    have, half are kept (`share: 0.5`) by the teacher's entropy.
    """

    by: Literal["highest_entropy"] = "highest_entropy"
    builds = "stillhouse.objectives.logit_weights:highest_entropy"
    of: Side = "teacher"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @property
    def looks_at(self) -> tuple[str, ...]:
        return (self.of,)


class Correct(GateKind):
    """One weight where the most likely class is the label, another where it is not.

    Meng et al. 2019 (conditional teacher-student learning, arXiv:1904.12399) learn from the teacher where it
    is right and from the labels (`right: 0, wrong: 1`) where it is not.
    """

    by: Literal["correct"] = "correct"
    builds = "stillhouse.objectives.logit_weights:correct"
    of: Side = "teacher"
    right: float = 1.0
    wrong: float = 0.0

    @property
    def looks_at(self) -> tuple[str, ...]:
        return (self.of, "labels")


class BiasVariance(GateKind):
    """1 - exp(-student's cross-entropy / teacher's), Zhou et al. 2021 (weighted soft labels, arXiv:2102.00650)."""

    by: Literal["bias_variance"] = "bias_variance"
    builds = "stillhouse.objectives.logit_weights:bias_variance"

    @property
    def looks_at(self) -> tuple[str, ...]:
        return ("student", "teacher", "labels")


class ClassBalanced(GateKind):
    """More for classes with few examples, Cui et al. 2019 (arXiv:1901.05555), eq. 6."""

    by: Literal["class_balanced"] = "class_balanced"
    builds = "stillhouse.objectives.logit_weights:class_balanced"
    of: Literal["labels", "teacher"] = "labels"
    """Whose class: the data's, or the teacher's most likely one, as DeiT-LT weighs its distillation token."""
    counts: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=2)]
    """Training examples of each class."""
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """0: every class alike; towards 1: one over the count."""

    @property
    def looks_at(self) -> tuple[str, ...]:
        return (self.of,)
