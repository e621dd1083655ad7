"""What a recipe may say. Every object here is plain data; `stillhouse.recipe.builder` builds from it.

Imports no torch: a recipe is checked before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

# The kinds that ship with the package register themselves when these modules are imported.
from stillhouse.catalog import papers
from stillhouse.engine.settings import Train
from stillhouse.errors import StillhouseError, nearest
from stillhouse.evaluation.kinds import MetricKind
from stillhouse.evaluation.metrics import measures
from stillhouse.kinds import AnyKind, Strict
from stillhouse.methods import (
    diffusion_kinds,  # noqa: F401  importing registers
    feature_kinds,  # noqa: F401  importing registers
    logit_kinds,  # noqa: F401  importing registers
    masked_kinds,  # noqa: F401  importing registers
    multi_kinds,  # noqa: F401  importing registers
    online_kinds,  # noqa: F401  importing registers
    prototype_kinds,  # noqa: F401  importing registers
    self_kinds,  # noqa: F401  importing registers
)
from stillhouse.methods.kinds import MethodKind
from stillhouse.networks import encoder_kinds as _encoders  # noqa: F401  importing registers
from stillhouse.networks import pretrained_kinds as _pretrained  # noqa: F401  importing registers
from stillhouse.networks import task_kinds as _tasks  # noqa: F401  importing registers
from stillhouse.networks.kinds import NetworkKind, Random, SamplerKind, WeightsKind
from stillhouse.recipe.choices import SearchSpec
from stillhouse.recipe.expect import check_names, parse
from stillhouse.sources import (
    altered_kinds,  # noqa: F401  importing registers
    detection_kinds,  # noqa: F401  importing registers
    made_kinds,  # noqa: F401  importing registers
    table_kinds,  # noqa: F401  importing registers
)
from stillhouse.sources import encoder_kinds as _texts  # noqa: F401  importing registers
from stillhouse.sources.kinds import DataKind
from stillhouse.views.kinds import ViewKind

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
"""Lower-case letters, digits, '-' and '_': it becomes part of file names."""
ArmName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
"""As a name, but without '-', so that `proof.expect` can do arithmetic."""


class ModelSpec(Strict):
    """A network, where its weights come from, and what it gets to see."""

    network: Annotated[NetworkKind, AnyKind("network")] | None = None
    """None: the teacher's own network."""
    weights: Annotated[WeightsKind, AnyKind("weights")] = Random()
    view: Annotated[ViewKind, AnyKind("view")] | None = None
    """None: the plain view of the data's task."""
    sampler: Annotated[SamplerKind, AnyKind("sampler")] | None = None
    """How a generator turns noise into samples."""


class TeacherSpec(ModelSpec):
    """A model that gives targets, live or from a store on disk; or several of them together."""

    store: str | None = None
    """A folder made by `stillhouse store build`; its signals are served in place of a live teacher's."""
    members: dict[ArmName, TeacherSpec] = {}
    """Several teachers: `logits` are the log of their mean probabilities, `<member>.<signal>` is one member's."""
    share: Annotated[float, Field(gt=0)] = 1.0
    """Of a member: its weight in that mean, against the other members'."""

    @property
    def live(self) -> bool:
        """Whether there is a network to ask, or several, beside a store."""
        return self.network is not None or bool(self.members)

    @model_validator(mode="after")
    def _one_or_several(self) -> TeacherSpec:
        if self.members and (self.network is not None or self.store is not None):
            raise ValueError("a teacher with 'members' has no 'network' or 'store' of its own: move it into a member")
        silent = [name for name, member in self.members.items() if not member.live]
        if silent:
            raise ValueError(f"members need a network each: {', '.join(silent)} has none")
        return self


class ArmSpec(Strict):
    """Another arm of the comparison: what it does otherwise than the recipe's student."""

    of: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Evaluate a model as it stands (with another sampler, say): `teacher`, `student`, `start` (the student before its
    training), a stage or an arm by name, or several, whose probabilities are averaged. None trains a student of the
    arm's own."""
    student: ModelSpec | None = None
    teacher: TeacherSpec | None = None
    data: Annotated[DataKind, AnyKind("data")] | None = None
    """What its student trains on; it is measured on the recipe's data like all others."""
    method: Annotated[MethodKind, AnyKind("method")] | None = None
    train: Train | None = None
    sampler: Annotated[SamplerKind, AnyKind("sampler")] | None = None


class StageSpec(Strict):
    """One stage of several; what is left out is the recipe's, but for a teacher whose weights a later stage makes."""

    name: Name
    teacher: TeacherSpec | None = None
    student: ModelSpec | None = None
    data: Annotated[DataKind, AnyKind("data")] | None = None
    method: Annotated[MethodKind, AnyKind("method")] | None = None
    train: Train | None = None


SEARCH_ARMS = ("search", "average", "importance")
"""What the proof of a search measures: the student it chose, the mean of all its trials' students, and how much each
choice mattered; its further arms are other searches."""

_NO_PROOF = "proof=null leaves the proof out"


class Proof(Strict):
    """What must hold for the recipe to count as proved."""

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0, 1, 2]
    expect: list[str]
    """Comparisons between arms' metrics, as in "student.accuracy > control.accuracy by 2 se"."""
    overrides: dict[str, str | int | float | bool | None] = {}
    """Recipe keys that the proof sets, to run at CPU scale."""

    @field_validator("expect")
    @classmethod
    def _parses(cls, texts: list[str]) -> list[str]:
        if not texts:
            raise ValueError(f"no expectation is left; {_NO_PROOF}")
        for text in texts:
            _as_value_error(parse, text)
        return texts


class Recipe(Strict):
    """One distillation: data, teacher, student, method, budget, what is measured, and what would prove it."""

    name: Name
    about: str = ""
    paper: str | list[str] | None = None
    """Catalogue key of the paper this shows, or several; None where it is not in the catalogue."""
    data: Annotated[DataKind, AnyKind("data")]
    teacher: TeacherSpec | None = None
    student: ModelSpec
    method: Annotated[MethodKind, AnyKind("method")]
    train: Train
    stages: list[StageSpec] = []
    """Stages before the last one, in order; the recipe's own method and train are the last."""
    evaluate: list[Annotated[MetricKind, AnyKind("metric")]] = []
    evaluate_on: Literal["validation", "test"] = "test"
    """Tune on validation; report on test."""
    control: bool | ArmSpec = True
    """The same student, budget and seed, without the teacher."""
    arms: dict[ArmName, ArmSpec] = {}
    """Further arms by name."""
    proof: Proof | None = None
    search: SearchSpec | None = None
    """Keys left open for `stillhouse search` to choose. The proof of a recipe with a search is the search's."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @field_validator("paper")
    @classmethod
    def _known(cls, named: str | list[str] | None) -> str | list[str] | None:
        for key in [named] if isinstance(named, str) else named or ():
            _as_value_error(papers.paper, key)
        return named

    @property
    def contestants(self) -> list[str]:
        """The names of the arms that a proof of it measures: a run's, or those of its search."""
        if self.search is not None:
            return [*SEARCH_ARMS, *self.search.arms]
        named = {"teacher": self.teacher is not None, "student": True, "control": self.control is not False}
        return [*(arm for arm, present in named.items() if present), *self.arms]

    @property
    def measured(self) -> list[str]:
        """The names of the metrics that a run of it gives."""
        return [name for kind in self.evaluate for name in kind.gives]

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.student.network is None and (self.teacher is None or self.teacher.network is None):
            raise ValueError("student.network is missing, and there is no teacher's network to take in its place")
        taken = {"teacher", "student", "control"} & set(self.arms)
        if taken:
            raise ValueError(f"arms may not be named {', '.join(sorted(taken))}: the run names those itself")
        if self.control is True and self.method.without_teacher() is None:
            raise ValueError(
                f"method {self.method.word!r} cannot tell what its student would be without a teacher: "
                "say it under 'control', or set control: false"
            )
        if self.search is not None:
            self._searchable(self.search)
        open_keys = self.search.choices if self.search and self.measured else ()
        for text in self.proof.expect if self.proof else ():
            try:
                check_names(parse(text), self.contestants, [*self.measured, *open_keys])
            except StillhouseError as error:
                raise ValueError(f"{error}; {_NO_PROOF}") from error
        return self

    def _searchable(self, search: SearchSpec) -> None:
        """Raise ValueError where the search cannot go by its metric, or could not begin."""
        if self.measured and search.metric not in self.measured:
            near = nearest(search.metric, self.measured)
            raise ValueError(f"search.metric: nothing under 'evaluate' gives {search.metric!r}; {near}")
        known = measures().get(search.metric)
        if search.direction is None and not (known and known.better):
            raise ValueError(f"search.direction is missing: {search.metric!r} does not tell which way is better")
        if search.warm is not None and self.method.without_teacher() is None:
            raise ValueError(
                f"search.warm: method {self.method.word!r} cannot tell what a trial without a teacher does"
            )
        taken = set(SEARCH_ARMS) & set(search.arms)
        if taken:
            raise ValueError(f"search.arms may not be named {', '.join(sorted(taken))}: the proof names those itself")


def _as_value_error(check: Callable[..., object], *args: object) -> None:
    """Run a check; pydantic adds file and line to a ValueError."""
    try:
        check(*args)
    except StillhouseError as error:
        raise ValueError(str(error)) from error
