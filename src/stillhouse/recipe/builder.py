"""From a stage's words to its objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Data, Facts, Source, Stage
from stillhouse.engine.paths import resolve
from stillhouse.engine.seeds import derive, seeded
from stillhouse.errors import StillhouseError, nearest
from stillhouse.evaluation.findings import Arm
from stillhouse.methods.roles import Roles
from stillhouse.networks.encoder_kinds import LayersOf
from stillhouse.networks.kinds import File, Fitted, FromStage, FromTeacher, Random, Trained, WeightsKind
from stillhouse.networks.weights import layers_of, load_weights
from stillhouse.recipe.plan import START, Planned, models_of, network_of, path_key, pretraining_stage, trained_arms
from stillhouse.recipe.schema import ModelSpec, Recipe, TeacherSpec
from stillhouse.sources.kinds import DataKind
from stillhouse.store.shards import Store
from stillhouse.teachers.ensemble import Ensemble
from stillhouse.teachers.frozen import Frozen, Teacher
from stillhouse.teachers.stored import StoredTeacher
from stillhouse.views.kinds import plain_view
from stillhouse.views.model import Model

EXAMPLE = 4
"""Examples in the batch that methods size their train-only parts by."""

State = dict[str, Tensor]


class Builder:
    """Makes the objects of a recipe's stages and arms. `handed` holds finished stages' weights by name.

    In a rehearsal it holds their shapes alone (meta tensors): whether they fit is told, and models keep random weights.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device | str = "cpu",
        *,
        rehearsal: bool = False,
        data: Data | None = None,
    ) -> None:
        self.recipe, self.device, self.rehearsal = recipe, torch.device(device), rehearsal
        self.data: Data = recipe.data.build() if data is None else data
        self.handed: dict[str, State] = {}
        self._teachers: dict[str, Frozen] = {}
        self._other_data: dict[str, Data] = {}

    def stage(self, stage: Planned) -> Stage:
        """The stage with its method and players built."""
        data = self._data(stage)
        teacher = self._teacher(stage, data)
        student = self._model(stage.student, stage.role, data.facts, self._teachers_state(stage, data))
        example = data.train.fetch(torch.arange(min(EXAMPLE, len(data.train))), None)
        sampler = None if stage.student.sampler is None else stage.student.sampler.build(student)
        seen = {name: value.to(self.device) for name, value in example.items()}
        roles = Roles(student, teacher, data.facts, seen, sampler, data.train)
        student.to(self.device)
        with seeded(derive(self.recipe.seed, stage.role, "method")):
            method = stage.method.build(roles)
        built = Stage(stage.name, method, data.train, stage.train)
        if self.rehearsal:
            left = method.players()[built.keeps].final.network.state_dict()
            self.handed[stage.name] = {name: value.to("meta") for name, value in left.items()}
        return built

    def trained(self, stage: Planned) -> Model:
        """The model a finished stage left."""
        network = self._network(stage.student, stage.role, self._data(stage).facts)
        _load(network, self.handed[stage.name], stage.role)
        return self._viewed(stage.student, network, self._data(stage).facts).to(self.device).eval()

    def arms(self, stages: list[Planned]) -> dict[str, Arm]:
        """The contestants, once every stage is done: teacher, student, control, others."""
        recipe, found = self.recipe, {}
        by_name = {stage.name: stage for stage in stages}
        if recipe.teacher is not None and recipe.teacher.live:
            teacher: Model = self.frozen_teacher(recipe.teacher, "teacher")
            found["teacher"] = _arm("teacher", teacher, recipe.teacher.sampler)
        found["student"] = _arm("student", self.trained(by_name["student"]), recipe.student.sampler)
        for name, arm in trained_arms(recipe).items():
            sampler = arm.sampler or (arm.student or recipe.student).sampler
            found[name] = _arm(name, self.trained(by_name[name]), sampler)
        for name, arm in recipe.arms.items():
            whose = [found[n].model if n in found else self._left(n, by_name) for n in models_of(arm)]
            if whose:
                model = whose[0] if len(whose) == 1 else Ensemble(dict(zip(models_of(arm), whose, strict=True)))
                found[name] = _arm(name, model, arm.sampler)
        return found

    def _left(self, name: str, stages: dict[str, Planned]) -> Model:
        """The model a finished stage left, or the student before its training."""
        if name != START:
            return self.trained(stages[name])
        stage, data = stages["student"], self._data(stages["student"])
        return self._model(stage.student, stage.role, data.facts, self._teachers_state(stage, data)).to(self.device)

    def frozen_teacher(self, spec: TeacherSpec, role: str, facts: Facts | None = None) -> Frozen:
        """The teacher's model for data of these facts (None: the recipe's), made once."""
        facts = facts or self.data.facts
        key = f"{role}:{facts.task}:{facts.shape}:{facts.classes}:{spec.model_dump_json()}"
        if key not in self._teachers:
            self._teachers[key] = self._frozen(spec, role, facts).to(self.device)
        return self._teachers[key]

    def _frozen(self, spec: TeacherSpec, role: str, facts: Facts) -> Frozen:
        if not spec.members:
            return Frozen(self._model(spec, role, facts))
        members = {name: self.frozen_teacher(one, f"{role}-{name}", facts) for name, one in spec.members.items()}
        return Ensemble(members, [member.share for member in spec.members.values()])

    def _teacher(self, stage: Planned, data: Data) -> Teacher | None:
        """The stage's teacher; None where its method asks none."""
        if stage.teacher is None or not stage.method.asks_teacher:
            return None
        live = self._live(stage, data) if stage.teacher.live else None
        if stage.teacher.store is None:
            return live
        own_weights = not (self.rehearsal and isinstance(stage.teacher.weights, Trained | FromStage))
        return StoredTeacher(Store.open(resolve(stage.teacher.store)), data.train, live, compare=own_weights)

    def _live(self, stage: Planned, data: Data) -> Frozen:
        assert stage.teacher is not None
        role = "teacher" if stage.teacher == self.recipe.teacher else f"{stage.name}-teacher"
        return self.frozen_teacher(stage.teacher, role, data.facts)

    def _teachers_state(self, stage: Planned, data: Data) -> Callable[[], State] | None:
        """What gives the weights of a stage's teacher, for a student that starts from them."""
        if stage.teacher is None:
            return None
        return lambda: dict(self._live(stage, data).network.state_dict())

    def comes_with_weights(self, spec: ModelSpec) -> bool:
        """Whether a model knows something before the run: its weights are a file's, or its network brings them."""
        if isinstance(spec, TeacherSpec) and spec.members:
            return all(self.comes_with_weights(member) for member in spec.members.values())
        return isinstance(spec.weights, File) or hasattr(network_of(spec, self.recipe), "path")

    def _data(self, stage: Planned) -> Data:
        """What a stage trains on."""
        return self._built(stage.data, f"stage {stage.name!r} trains")

    def _built(self, kind: DataKind, whose: str) -> Data:
        """That data. Raises where it is not the recipe's and may hold the recipe's test split."""
        if kind == self.recipe.data:
            return self.data
        words = kind.model_dump_json()
        if words not in self._other_data:
            self._other_data[words] = self._other(kind, whose)
        return self._other_data[words]

    def _other(self, kind: DataKind, whose: str) -> Data:
        data: Data = kind.build()
        same_set = type(kind.origin) is type(self.recipe.data.origin)
        if same_set and _split(data.test) != _split(self.data.test):
            raise StillhouseError(
                f"{whose} on other data than the recipe's, split otherwise: its training split "
                "may hold what the report tests on. Give both the same splits"
            )
        return data

    def _model(self, spec: ModelSpec, role: str, facts: Facts, teacher: Callable[[], State] | None = None) -> Model:
        """A network with the weights its recipe names, and its view. `teacher` gives the teacher's weights."""
        network = self._network(spec, role, facts)
        state = self._state(spec.weights, role, teacher)
        if state is not None:
            if isinstance(spec.weights, LayersOf):
                state = layers_of(spec.weights, state, network.state_dict())
            _load(network, state, role)
        model = self._viewed(spec, network, facts)
        if isinstance(spec.weights, Fitted) and not self.rehearsal:
            self._fit(model, spec.weights, role)
        return model

    def _fit(self, model: Model, weights: Fitted, role: str) -> None:
        """Have a network fit itself to its whole training split, as it is."""
        fit: Any = getattr(model.network, "fit", None)
        if fit is None:
            raise StillhouseError(
                f"weights of {role!r} are to be fitted, and {type(model.network).__name__} is trained by steps: "
                "`weights: fitted` is for network: trees or nearest-example, or an mlp without hidden layers"
            )
        source = self._built(weights.data or self.recipe.data, f"{role!r} is fitted").train
        batch = source.fetch(torch.arange(len(source)), None)
        seed = derive(self.recipe.seed, role, "weights") % 2**32  # as scikit-learn takes seeds
        labels = batch["labels"]
        if labels.dim() == 2:  # mixed data gives a distribution, which is one class where nothing is mixed
            if not ((labels == 1).sum(-1) == 1).all():
                raise StillhouseError(f"weights of {role!r} can be fitted to data with one class an example alone")
            labels = labels.argmax(-1)
        fit(model.view.inputs(batch)[""], labels, seed)

    def _network(self, spec: ModelSpec, role: str, facts: Facts) -> nn.Module:
        with seeded(derive(self.recipe.seed, role, "weights")):
            return network_of(spec, self.recipe).build(facts)

    def _viewed(self, spec: ModelSpec, network: nn.Module, facts: Facts) -> Model:
        return Model(network, (spec.view or plain_view(facts)).build(facts))

    def _state(self, weights: WeightsKind, role: str, teacher: Callable[[], State] | None) -> State | None:
        if isinstance(weights, LayersOf):
            return self._state(weights.of, role, teacher)
        before = [*self.handed]
        if isinstance(weights, FromStage) and weights.stage not in before:
            known = nearest(weights.stage, before) if before else "this is the first"
            raise StillhouseError(f"weights of stage {weights.stage!r}: no such stage comes before this one; {known}")
        if isinstance(weights, Random | Fitted):
            return None
        if isinstance(weights, File):
            return load_weights(weights, path_key(weights, self.recipe))
        if isinstance(weights, Trained):
            name = pretraining_stage(role)
            return self.handed.get(name) if self.rehearsal else self.handed[name]  # its own rehearsal may have failed
        if isinstance(weights, FromStage):
            return self.handed[weights.stage]
        assert isinstance(weights, FromTeacher), f"weights of kind {weights.word} have no rule here"
        if teacher is None:
            raise StillhouseError(f"weights of {role!r} are the teacher's, and there is no teacher")
        return teacher()


def _split(source: Source) -> str:
    """A fingerprint of what a split holds, whatever was masked in it."""
    return getattr(source, "text", source).fingerprint


def _arm(name: str, model: Model, sampler: Any) -> Arm:
    return Arm(name, model, None if sampler is None else sampler.build(model))


def _load(network: nn.Module, state: State, role: str) -> None:
    """Load weights strictly; a misfit names the first parameters that differ. Meta tensors are held to it alone."""
    own = network.state_dict()
    counters = {
        name for name in own if name.endswith("num_batches_tracked")
    }  # older weights lack these; torch adds them
    missing, extra = sorted(own.keys() - state.keys() - counters), sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)} in the weights and {tuple(own[name].shape)} in the network"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if missing or extra or shapes:
        told = [f"missing: {', '.join(missing[:4])}"] if missing else []
        told += [f"not in the network: {', '.join(extra[:4])}"] if extra else []
        told += sorted(shapes)[:3]
        raise StillhouseError(
            f"the weights for {role!r} do not fit its {type(network).__name__} ({'; '.join(told)}): name the network "
            "they were made for; where they are trained on other data, that has as many classes"
        )
    if not any(value.is_meta for value in state.values()):
        network.load_state_dict(state)
