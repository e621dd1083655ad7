"""Filling a store for a recipe: its teacher, trained if need be, on its training data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from safetensors.torch import save_file

from stillhouse.engine.events import Events, Progress, StageBegins, StageEnds
from stillhouse.engine.folder import RunFolder, write_atomically
from stillhouse.engine.process import Process
from stillhouse.engine.progress import progress as progress_view
from stillhouse.engine.stop import StopRequest
from stillhouse.errors import Interrupted, StillhouseError
from stillhouse.methods.kinds import MethodKind
from stillhouse.networks.encoder_kinds import LayersOf
from stillhouse.networks.kinds import FromStage, Trained
from stillhouse.objectives.kinds import TermKind
from stillhouse.recipe.builder import Builder
from stillhouse.recipe.execute import run_stage
from stillhouse.recipe.plan import Planned, planned
from stillhouse.recipe.schema import Recipe, TeacherSpec
from stillhouse.store.build import build_store
from stillhouse.store.layout import Dense, Layout, TopK
from stillhouse.store.shards import Store
from stillhouse.teachers.frozen import Frozen
from stillhouse.teachers.stored import require_servable

STAGE = "store"


def build_for(
    recipe: Recipe,
    folder: str | Path,
    *,
    top_k: int | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    batch_size: int = 256,
    device: str | None = None,
    progress: bool | None = None,
) -> Store:
    """Write the signals that a recipe's terms ask of its teacher, on its training data; goes on where it was stopped.

    A teacher whose weights a recipe trains is trained first, in the folder's `teacher/`, which keeps
    its weights as `weights.safetensors`. Run the recipe afterwards with `teacher.store` set to the folder.

    Args:
        top_k: keep the k most likely classes of the logits and the mass of the rest, at the terms'
            temperature; None keeps every logit.
        dtype: of what is kept densely.
        batch_size: examples in one forward pass of the teacher.
        device: "cpu", "cuda", ...; by default the fastest there is.
        progress: False shows nothing.

    Raises:
        StillhouseError: the recipe has no teacher to ask, or augments its data, or the folder holds
            another teacher's signals; Interrupted after Ctrl-C, with what is committed kept.
    """
    teacher_spec = recipe.teacher
    if teacher_spec is None or not teacher_spec.live:
        raise StillhouseError(f"recipe {recipe.name!r} has no teacher whose answers could be stored: name its network")
    recipe = recipe.model_copy(update={"teacher": teacher_spec.model_copy(update={"store": None})})
    folder = Path(folder)
    process = Process(device)
    shown = progress_view(progress)
    events = Events([shown] if shown else [])
    try:
        builder = Builder(recipe, process.device)
        require_servable(builder.data.train)
        teacher = _teacher(recipe, builder, folder / "teacher", process, events)
        signals = _layouts(recipe, top_k, dtype)
        with StopRequest() as stop:
            showing = _Showing(events, stop, folder)
            store = build_store(
                folder,
                teacher,
                builder.data.train,
                signals=signals,
                batch_size=batch_size,
                device=process.device,
                on_progress=showing,
            )
        events.send(StageEnds(STAGE, showing.total, time.perf_counter() - showing.began))
    except Interrupted as stopped:
        raise Interrupted(f"{stopped}. Go on with the same command") from None
    finally:
        events.close()
    return store


class _Showing:
    """Passes progress on as events, and stops the building when the user asks."""

    def __init__(self, events: Events, stop: StopRequest, folder: Path) -> None:
        self.events, self.stop, self.folder = events, stop, folder
        self.began, self.total = time.perf_counter(), 0

    def __call__(self, done: int, total: int) -> None:
        if not self.total:
            self.events.send(StageBegins(STAGE, 0, total))
        self.total = total
        speed = done / max(time.perf_counter() - self.began, 1e-9)
        self.events.send(Progress(STAGE, done, total, {}, speed))
        if self.stop.asked and done < total:
            raise Interrupted(f"stopped at {done:,} of {total:,} examples; {self.folder} keeps its whole shards")


def _teacher(recipe: Recipe, builder: Builder, folder: Path, process: Process, events: Events) -> Frozen:
    """The recipe's teacher, after the stages that its weights come from."""
    assert recipe.teacher is not None
    stages = _stages_before(recipe)
    if stages:
        with RunFolder(folder) as opened:
            for stage in stages:
                run_stage(builder, stage, process, opened, events)
    teacher = builder.frozen_teacher(recipe.teacher, "teacher")
    if stages:
        state = teacher.network.state_dict()
        weights = {name: value.cpu().clone() for name, value in state.items()}  # tied weights, each on its own
        write_atomically(folder / "weights.safetensors", lambda temporary: save_file(weights, temporary))
    return teacher


def _stages_before(recipe: Recipe) -> list[Planned]:
    """The stages that the teacher's weights need, in order."""
    assert recipe.teacher is not None
    stages = planned(recipe)
    names = [stage.name for stage in stages]
    last = max((names.index(stage) for stage in _stages_of(recipe.teacher, "teacher") if stage in names), default=-1)
    return stages[: last + 1]


def _stages_of(spec: TeacherSpec, role: str) -> Iterator[str]:
    """The stages that hand over a teacher's weights, its members' among them."""
    weights = spec.weights.of if isinstance(spec.weights, LayersOf) else spec.weights
    if isinstance(weights, Trained):
        yield role
    elif isinstance(weights, FromStage):
        yield weights.stage
    for name, member in spec.members.items():
        yield from _stages_of(member, f"{role}-{name}")


def _terms(method: MethodKind) -> Iterator[TermKind]:
    """The terms among a method's options, wherever they stand."""
    for name in type(method).model_fields:
        value = getattr(method, name)
        yield from (item for item in (value if isinstance(value, list) else [value]) if isinstance(item, TermKind))


def _layouts(recipe: Recipe, top_k: int | None, dtype: Literal["float32", "float16", "bfloat16"]) -> dict[str, Layout]:
    """What the terms of every stage ask of the teacher; the logits where a method has no terms."""
    methods = [recipe.method, *(stage.method for stage in recipe.stages if stage.method)]
    terms = [term for method in methods for term in _terms(method)]
    asked = {signal for term in terms for signal in term.teacher_signals} or {"logits"}
    temperatures = {temperature for term in terms for temperature in term.teacher_temperatures} or {1.0}
    layouts: dict[str, Layout] = {name: Dense(dtype) for name in sorted(asked)}
    if top_k is not None:
        if len(temperatures) > 1:
            raise StillhouseError(
                f"the terms on logits have temperatures {', '.join(map(str, sorted(temperatures)))}, and a top-k store "
                "is exact at one: give them one temperature, or store every logit (leave top-k out)"
            )
        layouts["logits"] = TopK(top_k, temperatures.pop())
    return layouts
