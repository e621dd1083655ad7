"""From a recipe to the stages it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from stillhouse.engine.paths import resolve_file
from stillhouse.engine.settings import Train
from stillhouse.errors import StillhouseError, nearest
from stillhouse.kinds import lookup
from stillhouse.methods.kinds import MethodKind
from stillhouse.networks.encoder_kinds import LayersOf
from stillhouse.networks.kinds import File, FromStage, NetworkKind, Trained
from stillhouse.recipe.schema import ArmSpec, ModelSpec, Recipe, StageSpec, TeacherSpec
from stillhouse.sources.kinds import DataKind

START = "start"
"""What an arm is `of` that is the student before its training."""


@dataclass(frozen=True)
class Planned:
    """One stage in a recipe's words."""

    name: str
    method: MethodKind
    train: Train
    student: ModelSpec
    teacher: TeacherSpec | None
    role: str
    """Whose initial weights the student starts from: arms share the student's."""
    data: DataKind
    recipe: Recipe
    """The recipe it is a stage of."""


def planned(recipe: Recipe) -> list[Planned]:
    """The stages of a recipe, in order: what models are trained first, the recipe's own, the arms."""
    stages = [*_pretraining(recipe.teacher, "teacher", recipe), *_pretraining(recipe.student, "student", recipe)]
    done: set[str] = set()
    for spec in recipe.stages:
        teacher = recipe.teacher if _stages_behind(recipe.teacher) <= done else None
        stages += _own(spec.name, spec, recipe, spec.method or recipe.method, teacher)
        done.add(spec.name)
    stages += _own("student", StageSpec(name="student"), recipe, recipe.method, recipe.teacher)
    for name, arm in trained_arms(recipe).items():
        method = arm.method or (recipe.method.without_teacher() if name == "control" else recipe.method)
        assert method is not None, "the schema checks that a control arm has a method"
        stages += _own(name, arm, recipe, method, recipe.teacher)
    names = [stage.name for stage in stages]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StillhouseError(f"two stages of recipe {recipe.name!r} are named {', '.join(twice)}: rename one")
    _evaluable(recipe, names)
    return stages


def _stages_behind(teacher: TeacherSpec | None) -> set[str]:
    """The stages whose weights a teacher has: it is absent until they are done."""
    if teacher is None:
        return set()
    own = {teacher.weights.stage} if isinstance(teacher.weights, FromStage) else set()
    return own.union(*(_stages_behind(member) for member in teacher.members.values()))


def _own(
    name: str, spec: StageSpec | ArmSpec, recipe: Recipe, method: MethodKind, teacher: TeacherSpec | None
) -> Iterator[Planned]:
    """One of the recipe's stages or arms, with this teacher unless it has its own; before it what its models need."""
    yield from _pretraining(spec.student, name, recipe)
    yield from _pretraining(spec.teacher, f"{name}-teacher", recipe)
    yield Planned(
        name,
        method,
        spec.train or recipe.train,
        spec.student or recipe.student,
        spec.teacher or teacher,
        "student" if spec.student is None else name,
        spec.data or recipe.data,
        recipe,
    )


def _evaluable(recipe: Recipe, stages: list[str]) -> None:
    """Raise for an arm that is of a model which will not be there."""
    known = [*stages, START, *(["teacher"] if recipe.teacher is not None and recipe.teacher.live else [])]
    for name, arm in recipe.arms.items():
        for whose in models_of(arm):
            if whose not in known:
                raise StillhouseError(f"arm {name!r} is of {whose!r}, which is no model here; {nearest(whose, known)}")


def models_of(arm: ArmSpec) -> list[str]:
    """The models that an arm without training of its own is made of."""
    return [arm.of] if isinstance(arm.of, str) else arm.of or []


def trained_arms(recipe: Recipe) -> dict[str, ArmSpec]:
    """The arms that train a student of their own, the control first."""
    arms: dict[str, ArmSpec] = {}
    if recipe.control:
        arms["control"] = ArmSpec() if recipe.control is True else recipe.control
    return arms | {name: arm for name, arm in recipe.arms.items() if arm.of is None}


def network_of(spec: ModelSpec, recipe: Recipe) -> NetworkKind:
    """The network a model's words name, or the teacher's in its place."""
    kind = spec.network or (recipe.teacher and recipe.teacher.network)
    if kind is None:
        raise StillhouseError("a model has no network, and there is no teacher's network to take in its place")
    return kind


def _pretraining(spec: ModelSpec | None, role: str, recipe: Recipe) -> Iterator[Planned]:
    """The stages that train a model's weights on data alone, where the recipe asks for it."""
    if isinstance(spec, TeacherSpec):
        for name, member in spec.members.items():
            yield from _pretraining(member, f"{role}-{name}", recipe)
    if spec is None or not isinstance(spec.weights, Trained):
        return
    network = network_of(spec, recipe)
    method = spec.weights.method or lookup("method", network.pretraining["kind"]).model_validate(network.pretraining)
    assert isinstance(method, MethodKind)
    train = Train(**{field: getattr(spec.weights, field) for field in Train.model_fields})
    view = None if spec.view is None else spec.view.alone()
    start = ModelSpec(network=network, weights=spec.weights.start, view=view, sampler=spec.sampler)
    data = spec.weights.data or recipe.data
    yield Planned(pretraining_stage(role), method, train, start, None, role, data, recipe)


def pretraining_stage(role: str) -> str:
    return role if "teacher" in role.split("-") else f"{role}-start"


def files_there(stage: Planned) -> None:
    """Raise StillhouseError now for a file of weights that a stage would miss later."""
    members = [] if stage.teacher is None else [stage.teacher, *stage.teacher.members.values()]
    for spec in (stage.student, *members):
        weights = spec.weights
        while isinstance(weights, Trained | LayersOf):
            weights = weights.start if isinstance(weights, Trained) else weights.of
        if isinstance(weights, File):
            resolve_file(weights.path, path_key(weights, stage.recipe))


def path_key(weights: File, recipe: Recipe) -> str:
    """The key of a file's path as an override would write it."""
    return f"{_key_of(weights, recipe) or 'weights'}.path"


def _key_of(wanted: object, inside: object, key: str = "") -> str | None:
    """Where an object of a recipe stands in it."""
    if inside is wanted:
        return key
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(inside, BaseModel):
        items = ((name, getattr(inside, name)) for name in type(inside).model_fields)
    elif isinstance(inside, dict | list):
        items = inside.items() if isinstance(inside, dict) else enumerate(inside)
    places = (_key_of(wanted, item, f"{key}.{name}" if key else str(name)) for name, item in items)
    return next((place for place in places if place is not None), None)
