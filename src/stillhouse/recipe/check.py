"""The preflight: what would ruin a run, told before it starts.

Sizes are read off networks built on the meta device; if they fit, every stage is built for real and
rehearsed: each turn of its method runs once on one real batch, forward and backward, with no update.
Then every arm is measured on a few examples, where that is quickly done.
Models that the run would train first take part with random weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import psutil
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stillhouse.engine.contracts import Batch, Data, Source, Stage
from stillhouse.engine.loader import Loader
from stillhouse.engine.process import Process
from stillhouse.engine.reduction import counted, gradients, means, summed
from stillhouse.engine.seeds import seeded
from stillhouse.engine.settings import Train
from stillhouse.errors import NothingToMeasure, StillhouseError
from stillhouse.evaluation.findings import Context, measured
from stillhouse.networks.kinds import NetworkKind
from stillhouse.recipe.builder import Builder
from stillhouse.recipe.plan import Planned, network_of, planned
from stillhouse.recipe.schema import Recipe
from stillhouse.views.model import Model

Level = Literal["ok", "warning", "error"]
JUDGED = 256
"""Validation examples on which a teacher that comes with weights is judged."""
MEASURED = 32
"""Examples on which every arm is measured to see whether it can be."""
ARMS = ("student", "control")
"""The two stages that differ by the teacher alone."""
MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What networks, views, data and methods that do not fit together end in."""
OPTIMIZER_STATES = {"adamw": 2, "adam": 2, "sgd": 1}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    what: str
    told: str


@dataclass
class Report:
    """What the preflight found."""

    recipe: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the recipe can run as it stands."""
        return all(finding.level != "error" for finding in self.findings)

    @property
    def clean(self) -> bool:
        """Whether there is not even a warning."""
        return all(finding.level == "ok" for finding in self.findings)

    def add(self, level: Level, what: str, told: str) -> None:
        self.findings.append(Finding(level, what, told))

    def table(self) -> str:
        """For a terminal: a line a finding, what is wrong last."""
        order = {"ok": 0, "warning": 1, "error": 2}
        width = max((len(f.what) for f in self.findings), default=0)
        lines = [
            f"{f.level:<8}{f.what:<{width}}  {f.told}" for f in sorted(self.findings, key=lambda f: order[f.level])
        ]
        verdict = "can run" if self.passed else "cannot run as it stands"
        return "\n".join([*lines, "", f"{self.recipe} {verdict}"])

    def to_dict(self) -> dict[str, Any]:
        return {"recipe": self.recipe, "passed": self.passed, "findings": [asdict(f) for f in self.findings]}


def check(recipe: Recipe, device: str | None = None, data: Data | None = None) -> Report:
    """Look at everything that can be looked at without training. Never raises for what is wrong with a recipe.

    `data` is the recipe's, where it was built before.
    """
    report = Report(recipe.name)
    try:
        process = Process(device)
        builder = Builder(recipe, process.device, rehearsal=True, data=data)
        data = builder.data
        sizes = f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test"
        report.add(
            "ok", "data", f"{data.facts.task}, {sizes}, {data.facts.classes} classes; licence: {data.facts.licence}"
        )
        _measurable(recipe, builder, report)
        stages = planned(recipe)
        _same_budget(stages, report)
        if data.facts.task in _INSTEAD:
            _not_one_class(data.facts.task, stages, report)
        if _sizes_fit(recipe, stages, builder, process, report):
            for stage in stages:
                _rehearse(stage, builder, process, report)
            _teacher_knows(recipe, builder, report)
            if report.passed:
                _measure_a_few(recipe, stages, builder, report)
    except StillhouseError as error:
        report.add("error", "recipe", str(error))
    return report


def _measurable(recipe: Recipe, builder: Builder, report: Report) -> None:
    """Whether what is asked for under `evaluate` can be measured on this data and these models."""
    task = "generation" if recipe.student.sampler is not None else builder.data.facts.task
    runnable = recipe.teacher is not None and recipe.teacher.live
    for metric in recipe.evaluate:
        if metric.task not in (None, task):
            report.add(
                "error", f"evaluate: {metric.word}", f"it measures {metric.task}, and this is {task}: leave it out"
            )
        if metric.needs_teacher and not runnable:
            report.add("error", f"evaluate: {metric.word}", "it needs a teacher that can be run, and there is none")


_INSTEAD = {
    "regression": "the data's labels are numbers, and `cross_entropy` is of classes: say {signal: labels, by: mse}",
    "detection": "an image has several objects: say by: dense_detection, or set_detection for models like DETR",
    "multi-label": "an example has several labels, and `cross_entropy` is of one class: say by: binary_cross_entropy",
}


def _not_one_class(task: str, stages: list[Planned], report: Report) -> None:
    """Cross-entropy is of one class an example: on numbers it learns nothing, on several labels something else."""
    for stage in stages:
        words = [term.get("by") for term in stage.method.model_dump().get("terms", [])]
        if "cross_entropy" in words:
            where = " (weights.method says how a model is trained first)" if stage.name.endswith("teacher") else ""
            report.add("error", f"{stage.name}: terms", _INSTEAD[task] + where)


def _same_budget(stages: list[Planned], report: Report) -> None:
    """Whether the control is trained as long as the student: else the teacher is not all that differs."""
    spent = {stage.name: (stage.train.steps, stage.train.epochs) for stage in stages}
    if spent.get("control", spent["student"]) != spent["student"]:
        own, other = (f"{steps} steps" if steps else f"{epochs:g} epochs" for steps, epochs in (spent[a] for a in ARMS))
        told = f"the student is trained for {own}, the control for {other}: change control.train with train"
        report.add("warning", "control: budget", told)


def _sizes_fit(recipe: Recipe, stages: list[Planned], builder: Builder, process: Process, report: Report) -> bool:
    """Count parameters on the meta device; hold weights, gradients and optimizer states against the memory."""
    free = free_memory(process.device)
    fits = True
    for stage in stages:
        student = parameter_bytes(network_of(stage.student, recipe), builder)
        asked = [] if stage.teacher is None else [stage.teacher, *stage.teacher.members.values()]
        teacher = sum(parameter_bytes(spec.network, builder) for spec in asked if spec.network is not None)
        copies = 2 + OPTIMIZER_STATES.get(stage.train.optimizer.word, 2) + (stage.train.ema is not None)
        needed = student * copies + teacher
        told = f"{student // 4:,} parameters; weights, gradients and optimizer take {gib(needed)} of {gib(free)} free"
        report.add("ok" if needed < free else "error", f"{stage.name}: size", told)
        fits &= needed < free
    return fits


def parameter_bytes(kind: NetworkKind, builder: Builder) -> int:
    """Bytes of a network's parameters, without making them where the network can be built on the meta device."""
    if hasattr(kind, "path"):
        return 0  # its size is in its files; loading it tells
    with torch.device("meta"), _Unfilled():
        network: nn.Module = kind.build(builder.data.facts)
    return sum(p.numel() * p.element_size() for p in network.parameters())


class _Unfilled(TorchFunctionMode):
    """Leaves out the filling of tensors with random numbers; on the meta device it fills nothing, and takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def _rehearse(planned_stage: Planned, builder: Builder, process: Process, report: Report) -> None:
    """Build a stage and run each of its turns once on a small batch, then time one on a full batch."""
    name = planned_stage.name
    try:
        with seeded(0):
            stage = builder.stage(planned_stage)
            small = _turns(stage, process, min(4, planned_stage.train.batch_size))
            report.add("ok", f"{name}: rehearsed", ", ".join(small.terms))
            if small.masked == 1.0:
                report.add("error", f"{name}: labels", "every label of the batch is masked: there is nothing to learn")
            for term in small.nonfinite:
                report.add("error", f"{name}: losses", f"the term {term!r} is not finite on the first batch")
            _memory_and_time(stage, planned_stage.train, small, process, report)
    except StillhouseError as error:
        report.add("error", name, str(error))
    except MISFITS as error:
        network = network_of(planned_stage.student, builder.recipe).word
        report.add(
            "error",
            name,
            f"the first step failed with {type(error).__name__}: {error}. Do the network ({network}), its view, the "
            f"data ({builder.recipe.data.word}) and the method ({planned_stage.method.word}) fit together?",
        )


class _First:
    """The first examples of a split."""

    def __init__(self, source: Source, count: int) -> None:
        self.source, self.count, self.fingerprint = source, min(count, len(source)), source.fingerprint

    def __len__(self) -> int:
        return self.count

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        return self.source.fetch(indices, rng)


def _measure_a_few(recipe: Recipe, stages: list[Planned], builder: Builder, report: Report) -> None:
    """Measure every arm on a few examples with the weights there are, to see whether it can be measured at the end."""
    source = getattr(builder.data, recipe.evaluate_on)
    few = _First(source, MEASURED)
    context = Context(builder.data, few, builder.arms(stages), recipe.seed, builder.device)
    fine = []
    for metric in (one for one in recipe.evaluate if one.rehearsed):
        try:
            for arm in context.arms.values():
                measured(metric, arm, context)
            fine.append(metric.word)
        except NothingToMeasure as error:
            if len(few) == len(source):
                report.add("error", f"evaluate: {metric.word}", str(error))
        except StillhouseError as error:
            report.add("error", f"evaluate: {metric.word}", str(error))
        except MISFITS as error:
            told = f"measuring {arm.name} failed with {type(error).__name__}: {error}. Are its answers for this data?"
            report.add("error", f"evaluate: {metric.word}", told)
    if fine:
        report.add("ok", f"measured on {len(few)}", ", ".join(fine))


@dataclass
class Rehearsal:
    """What one pass over a method's turns showed."""

    terms: list[str]
    nonfinite: list[str]
    masked: float
    saved_bytes: int
    seconds: float
    batch_size: int


def _turns(stage: Stage, process: Process, batch_size: int) -> Rehearsal:
    loader = Loader(stage.source, batch_size, seed=0, device=process.device)
    rng = torch.Generator(process.device).manual_seed(0)
    terms: dict[str, float] = {}
    batch: Batch = {}
    with saved_bytes() as kept:
        began = time.perf_counter()
        for turn in stage.method.schedule():
            batch = loader.next() if turn.fresh or not batch else batch
            with process.autocast(stage.settings.precision):
                losses = turn.losses(batch, rng)
            counts = counted(losses, process)
            # One scalar: torch.autograd.backward with gradients given imports sympy, which takes a second.
            whole = torch.stack([(root * seed).sum() for root, seed in zip(*gradients(losses, counts), strict=True)])
            whole.sum().backward()
            terms |= dict(zip(losses, means(summed(losses), counts), strict=True))
        seconds = time.perf_counter() - began
    masked = _masked(stage, batch)
    for player in stage.method.players().values():
        for parameter in player.parameters():
            parameter.grad = None
    bad = [name for name, term in terms.items() if not math.isfinite(term)]
    return Rehearsal(list(terms), bad, masked, max(kept), seconds, loader.batch_size)


def _masked(stage: Stage, batch: Batch) -> float:
    """The share of labels that are not to be predicted."""
    module = stage.method.players()[stage.keeps].module
    if not isinstance(module, Model) or "labels" not in batch:
        return 0.0
    _, where = module.view.targets(batch)
    return 0.0 if where is None else 1.0 - where.float().mean().item()


def _memory_and_time(stage: Stage, train: Train, small: Rehearsal, process: Process, report: Report) -> None:
    """Scale the small batch's activations to the full one; time a full batch where it fits."""
    free = free_memory(process.device)
    needed = small.saved_bytes * train.batch_size // small.batch_size
    what = f"{stage.name}: memory and time"
    if needed > free:
        report.add(
            "error",
            what,
            f"a batch of {train.batch_size} keeps {gib(needed)} of activations, and {gib(free)} are free: "
            f"lower train.batch_size to {max(1, int(train.batch_size * free / needed))} and raise train.accumulate",
        )
        return
    full = _turns(stage, process, train.batch_size)
    if train.steps is not None:
        steps = train.steps
    else:
        assert train.epochs is not None
        drawn = sum(turn.fresh for turn in stage.method.schedule()) * train.accumulate
        steps = max(1, round(train.epochs * (len(stage.source) // full.batch_size) / max(drawn, 1)))
    told = f"{gib(full.saved_bytes)} of activations a batch; {steps} steps, about {duration(full.seconds * steps)}"
    report.add("ok", what, told)


def _teacher_knows(recipe: Recipe, builder: Builder, report: Report) -> None:
    """Hold a teacher that comes with its weights against chance on the data it is to teach."""
    spec = recipe.teacher
    if spec is None or not spec.live or not builder.comes_with_weights(spec):
        return
    if spec.sampler is not None:
        return  # a generator: it is asked for samples, not for answers
    teacher = builder.frozen_teacher(spec, "teacher")
    source = builder.data.validation
    batch = source.fetch(torch.arange(min(JUDGED, len(source))), None)
    batch = {name: value.to(builder.device) for name, value in batch.items()}
    if "labels" not in batch:
        return
    signals = teacher.signals(batch, ())
    if "logits" not in signals:
        return
    logits = signals["logits"]
    labels, where = teacher.view.targets(batch)
    if labels.is_floating_point() or labels.shape != logits.shape[:-1]:
        return  # not one class a place: how good it is takes a measurement
    if where is not None:
        logits, labels = logits[where], labels[where]
    classes = logits.shape[-1]
    right = (logits.argmax(-1) == labels).float().mean().item()
    bound = 1 / classes + 3 * math.sqrt((1 - 1 / classes) / classes / max(len(labels), 1))
    told = f"right on {right:.1%} of {len(labels):,} held-out labels; chance is {1 / classes:.2%}"
    if right > bound:
        report.add("ok", "teacher", told)
    else:
        report.add(
            "error",
            "teacher",
            f"{told}. It knows nothing of this data: look at its view (normalisation, image size), at the order of its "
            "classes, at its tokenizer, or train it first with `weights: {kind: trained, start: ...}`",
        )


@contextmanager
def saved_bytes() -> Iterator[list[int]]:
    """Adds up what autograd keeps for the backward pass; the list's last number is the sum."""
    kept = [0]
    seen: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept.append(kept[-1] + storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def gib(count: float) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**27 else f"{count / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
