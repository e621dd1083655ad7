"""Side by side with torchdistill: loss values on the same tensors, seconds a step, accuracy after the same steps.

    python benchmarks/torchdistill.py --root DATA [--parts values,documented,training,double,whole,luck]
                                      [--methods kd,at]

DATA is a folder with cifar10/*.parquet and weights/cifar10_resnet{20,56}.safetensors. torchdistill is never imported
here: it runs in a process of its own, in an environment of its own (not part of the repository), made by

    python -m venv benchmarks/peers/torchdistill
    benchmarks/peers/torchdistill/bin/pip install torch==2.13.0 torchdistill==1.1.5 torchvision==0.28.0 pydantic pillow

ResNet-56 to ResNet-20, both this project's own classes on both sides, from the given weights (`training`: 50 steps) or
with a student from random ones (`whole`: 1,000 steps, none of the time measured; `double`: its first 20 in double
precision, where rounding does not part the two sides). The train-only parts start from the same random weights; the
same finished batches come in the same order; SGD with a cosine schedule; the teacher in eval mode.
The two sides take turns, a block of steps at a time, in one thread each. Ours is timed with drawing and augmenting the
batch and with the engine's logging; theirs is handed normalised batches (and CRD's negatives) and is timed without.
Results are kept by method in benchmarks/results/torchdistill.json; benchmarks/torchdistill_page.py makes the page.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from side_by_side import RESULTS, machine
from stillhouse.engine.contracts import Batch, Data, Stage
from stillhouse.engine.events import Event, Events, Listener, Logged
from stillhouse.engine.folder import RunFolder
from stillhouse.engine.loader import Loader
from stillhouse.engine.loop import Loop, modules_of
from stillhouse.engine.paths import set_root
from stillhouse.engine.process import Process
from stillhouse.engine.seeds import derive
from stillhouse.engine.settings import SGD, Train
from stillhouse.evaluation.statistics import paired_interval
from stillhouse.methods.kinds import Match
from stillhouse.methods.roles import Roles
from stillhouse.networks.kinds import File, ResNet
from stillhouse.networks.weights import load_weights
from stillhouse.objectives.contrast import CRD
from stillhouse.objectives.divergences import cross_entropy, forward_kl, mse
from stillhouse.objectives.feature_parts import KnowledgeReview
from stillhouse.objectives.features import attention_transfer, probabilistic, pyramid, similarity_preserving
from stillhouse.objectives.logits import dist_inter, dist_intra, standardised_kl
from stillhouse.objectives.relations import relational_angle, relational_distance
from stillhouse.sources.kinds import ImageParquet
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

HERE = Path(__file__).parent
PEER = HERE / "peers" / "torchdistill" / "bin" / "python"
FILE = RESULTS / "torchdistill.json"
BATCH, BLOCK, SEED, NEGATIVES = 32, 5, 0, 4096
MOMENTUM, DECAY = 0.9, 5e-4
NORMS = 24
"""How much larger SPKD is with rows of 2-norm one (the paper) than of 1-norm one (torchdistill), see `values`."""
STAGES = ["layer1", "layer2", "layer3"]
WIDTHS = {"layer1": 16, "layer2": 32, "layer3": 64}
SIZES = {"layer1": 32, "layer2": 16, "layer3": 8}
VIEW = Image(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

Given = Mapping[str, Tensor]


# --- what the two sides are told -------------------------------------------------------------

ANSWERS = {
    "student_module_path": ".",
    "student_module_io": "output",
    "teacher_module_path": ".",
    "teacher_module_io": "output",
}
CE_OURS = {"signal": "labels", "by": "cross_entropy"}
CE_THEIRS = {
    "criterion": {"key": "CrossEntropyLoss", "kwargs": {"reduction": "mean"}},
    "criterion_wrapper": {
        "key": "SimpleLossWrapper",
        "kwargs": {
            "input": {"is_from_teacher": False, "module_path": ".", "io": "output"},
            "target": {"uses_label": True},
        },
    },
    "weight": 1.0,
}


def feature_pair(student: str, teacher: str) -> dict[str, Any]:
    """`SimpleLossWrapper` from a module of the student to one of the teacher."""
    return {
        "key": "SimpleLossWrapper",
        "kwargs": {
            "input": {"is_from_teacher": False, "module_path": student, "io": "output"},
            "target": {"is_from_teacher": True, "module_path": teacher, "io": "output"},
        },
    }


def theirs(
    terms: dict[str, Any],
    *,
    taps: list[str] = [],  # noqa: B006
    labels: bool = True,
    student: dict[str, Any] | None = None,
    teacher: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A training configuration of torchdistill: terms, and what of each network they look at."""
    plain = {"forward_proc": "forward_batch_only", "forward_hook": {"input": [], "output": taps}}
    all_terms = ({"ce": CE_THEIRS} if labels else {}) | terms
    return {
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": all_terms}},
        "student": plain | {"requires_grad": True} | (student or {}),
        "teacher": plain | {"requires_grad": False} | (teacher or {}),
        **more,
    }


def term(key: str, weight: float = 1.0, **options: Any) -> dict[str, Any]:
    return {"criterion": {"key": key, "kwargs": options}, "weight": weight}


def at_pairs(names: list[str]) -> dict[str, Any]:
    return {
        name: {side: {"io": "output", "path": name} for side in ("teacher", "student")} | {"weight": 1}
        for name in names
    }


def crd_side(*, is_student: bool) -> dict[str, Any]:
    linear = {"in_features": 64, "out_features": 128, "bias": True}
    return {
        "forward_proc": "forward_batch_supp_dict",
        "auxiliary_model_wrapper": {
            "key": "Linear4CRD",
            "kwargs": {"input_module_path": "model.pool", "linear_kwargs": linear, "power": 2},
        },
        "forward_hook": {"input": ["empty"] if is_student else [], "output": ["model.pool", "normalizer"]},
        "requires_grad": True,
        "frozen_modules": [] if is_student else ["model"],
    }


def crd_loss(examples: int) -> dict[str, Any]:
    return {
        "student_norm_module_path": "normalizer",
        "student_empty_module_path": "empty",
        "teacher_norm_module_path": "normalizer",
        "input_size": 128,
        "output_size": examples,
        "num_negative_samples": NEGATIVES,
        "num_samples": examples,
    }


def review_terms() -> dict[str, Any]:
    """One hierarchical context loss a stage; their fusions are numbered from the deepest."""
    return {
        name: term(
            "HierarchicalContextLoss",
            student_module_path=f"abf_modules.{len(STAGES) - 1 - at}",
            student_module_io="output",
            teacher_module_path=name,
            teacher_module_io="output",
        )
        for at, name in enumerate(STAGES)
    }


def review_student() -> dict[str, Any]:
    fusions = [
        {
            "path": f"student_model.{name}",
            "io": "output",
            "kwargs": {"in_channels": WIDTHS[name], "mid_channels": 64, "out_channels": WIDTHS[name]},
        }
        for name in STAGES
    ]
    options = {"abfs": fusions, "sizes": [SIZES[name] for name in reversed(STAGES)]}
    taps = [f"student_model.{name}" for name in STAGES] + [f"abf_modules.{at}" for at in range(len(STAGES))]
    return {
        "auxiliary_model_wrapper": {"key": "Student4KnowledgeReview", "kwargs": options},
        "forward_hook": {"input": [], "output": taps},
    }


def fitnets_student() -> dict[str, Any]:
    regressor = {"num_input_channels": 32, "num_output_channels": 32, "kernel_size": 1, "stride": 1, "padding": 0}
    return {
        "auxiliary_model_wrapper": {
            "key": "Student4FitNets",
            "kwargs": {"path": "student_model.layer2", "regressor": regressor},
        },
        "forward_hook": {"input": [], "output": ["student_model.layer2", "convreg"]},
    }


def cases(examples: int) -> dict[str, tuple[list[dict[str, Any]], dict[str, Any]]]:
    """By method: our terms, and their configuration.

    Weights are those of CRD's benchmark (Tian et al. 2020) where it has the method, but for FitNets, whose 100 is for
    a student without weights.
    """
    pooled = {key: value.replace(".", "pool") for key, value in ANSWERS.items()}
    maps = [f"features.{name}" for name in STAGES]
    rkd = {"student_output_path": "pool", "teacher_output_path": "pool", "reduction": "mean"}
    spkd = {"student_output_path": "layer3", "teacher_output_path": "layer3", "reduction": "batchmean"}
    similar = {"signal": "features.layer3", "by": "similarity_preserving"}
    their_similar = theirs({"spkd": term("SPKDLoss", 3000.0, **spkd)}, taps=["layer3"])
    hint = term("MSELoss", reduction="mean") | {"criterion_wrapper": feature_pair("convreg", "layer2")}
    crd = theirs(
        {"crd": term("CRDLoss", 0.8, **crd_loss(examples))},
        student=crd_side(is_student=True),
        teacher=crd_side(is_student=False),
        negatives=NEGATIVES,
    )
    return {
        "kd": (
            [{"by": "kl", "temperature": 4.0, "weight": 0.9}, CE_OURS | {"weight": 0.1}],
            theirs({"kd": term("KDLoss", temperature=4.0, alpha=0.1, **ANSWERS)}, labels=False),
        ),
        "at": (
            [CE_OURS, {"signal": maps, "by": "attention_transfer", "weight": 1000.0}],
            theirs({"at": term("ATLoss", 1000.0, at_pairs=at_pairs(STAGES), mode="code")}, taps=STAGES),
        ),
        "fitnets": (
            [CE_OURS, {"signal": "features.layer2", "by": "mse", "project": "conv"}],
            theirs({"hint": hint}, taps=["layer2"], student=fitnets_student()),
        ),
        "pkt": (
            [CE_OURS, {"signal": "features.pool", "by": "pkt", "weight": 30000.0 / BATCH}],
            theirs({"pkt": term("PKTLoss", 30000.0, **pooled)}, taps=["pool"]),
        ),
        "rkd": (
            [
                CE_OURS,
                {"signal": "features.pool", "by": "rkd_distance", "weight": 25.0},
                {"signal": "features.pool", "by": "rkd_angle", "weight": 50.0},
            ],
            theirs({"rkd": term("RKDLoss", dist_factor=25.0, angle_factor=50.0, **rkd)}, taps=["pool"]),
        ),
        "spkd": ([CE_OURS, similar | {"weight": 3000.0}], their_similar),
        "spkd-scaled": ([CE_OURS, similar | {"weight": 3000.0 / NORMS}], their_similar),
        "crd": (
            [
                CE_OURS,
                {
                    "signal": "features.pool",
                    "by": "crd",
                    "examples": examples,
                    "negatives": NEGATIVES,
                    "weight": 0.8,
                },
            ],
            crd,
        ),
        "dist": (
            [CE_OURS, {"by": "dist_inter", "weight": 2.0}, {"by": "dist_intra", "weight": 2.0}],
            theirs({"dist": term("DISTLoss", 2.0, **ANSWERS)}),
        ),
        "logit-std": (
            [
                {"by": "standardised_kl", "temperature": 2.0, "unbiased": True, "weight": 9.0},
                CE_OURS | {"weight": 0.1},
            ],
            theirs(
                {"kd": term("LogitStdKDLoss", temperature=2.0, alpha=0.1, beta=9.0, **ANSWERS)},
                labels=False,
            ),
        ),
        "review": (
            [CE_OURS, {"signal": maps, "by": "knowledge_review", "weight": 1.0}],
            theirs(review_terms(), taps=STAGES, student=review_student()),
        ),
    }


def their_parts(method: str, parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Our train-only parts by the names they have there, so that both sides start alike."""
    found: dict[str, Tensor] = {}
    for part in parts.values():
        if method == "review":
            assert isinstance(part, KnowledgeReview)
            for at in range(len(STAGES)):
                fusion = f"student.abf_modules.{len(STAGES) - 1 - at}"
                found |= named(part.inward[at], f"{fusion}.conv1") | named(part.outward[at], f"{fusion}.conv2")
                if at < len(STAGES) - 1:
                    found |= named(part.attention[at], f"{fusion}.attention_conv.0")
        elif method == "crd":
            assert isinstance(part, CRD)
            found |= named(part.embed_student, "student.normalizer") | named(part.embed_teacher, "teacher.normalizer")
            found |= {"crd.memory_v1": part.student_bank, "crd.memory_v2": part.teacher_bank}
        elif method == "fitnets":
            found["student.convreg.conv.weight"] = part.state_dict()["0.weight"]
            found["student.convreg.conv.bias"] = torch.zeros(32)
    return {name: value.clone() for name, value in found.items()}


def named(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


# --- values ----------------------------------------------------------------------------------


class Row:
    """A loss of ours as a function of signals, and the one of theirs that it is held to."""

    def __init__(
        self,
        ours: Callable[[Given], Tensor],
        criterion: dict[str, Any],
        tap: str | list[str] = "logits",
        wrapper: dict[str, Any] | None = None,
    ) -> None:
        self.ours, self.criterion, self.wrapper = ours, criterion["criterion"], wrapper
        self.taps = [tap] if isinstance(tap, str) else tap

    def told(self, name: str) -> dict[str, Any]:
        """What the other side needs to know."""
        paths = {"." if tap == "logits" else tap: tap for tap in self.taps}
        sides = {side: {path: f"{side}.{tap}" for path, tap in paths.items()} for side in ("student", "teacher")}
        return {"name": name, "criterion": self.criterion, "wrapper": self.wrapper, **sides}


def of(tap: str, loss: Callable[..., Tensor], factor: float = 1.0, **options: Any) -> Callable[[Given], Tensor]:
    """The mean of a loss on one tap."""
    return lambda given: factor * loss(given[f"student.{tap}"], given[f"teacher.{tap}"], **options).mean()


def with_labels(alpha: float, beta: float, loss: Callable[..., Tensor], **options: Any) -> Callable[[Given], Tensor]:
    """alpha times the cross-entropy on labels and beta times a loss on logits."""
    soft = of("logits", loss, **options)
    return lambda given: alpha * cross_entropy(given["student.logits"], given["labels"]).mean() + beta * soft(given)


def all_stages(form: str) -> Callable[[Given], Tensor]:
    def value(given: Given) -> Tensor:
        sides = ([given[f"{side}.{name}"] for name in STAGES] for side in ("student", "teacher"))
        return attention_transfer(*sides, form=form).mean()  # type: ignore[arg-type]

    return value


def both_relations(temperature: float) -> Callable[[Given], Tensor]:
    inter, intra = (of("logits", loss, temperature=temperature) for loss in (dist_inter, dist_intra))
    return lambda given: inter(given) + intra(given)


def rows(crd: CRD) -> dict[str, Row]:
    """Every loss that is compared, by the name it has in the table."""
    kd = {"temperature": 4.0, **ANSWERS}
    std = term("LogitStdKDLoss", temperature=2.0, alpha=0.1, beta=9.0, **ANSWERS)
    pool = {key: value.replace(".", "pool") for key, value in ANSWERS.items()}
    rkd = {"student_output_path": "pool", "teacher_output_path": "pool", "reduction": "mean"}
    spkd = {"student_output_path": "layer3", "teacher_output_path": "layer3", "reduction": "batchmean"}
    hcl = {key: value.replace(".", "layer2") for key, value in ANSWERS.items()}
    size = len(crd.classes)

    def contrast(given: Given) -> Tensor:
        term = copy.deepcopy(crd)  # its banks move with each call
        return term(given["student.pool"], given["teacher.pool"], index=given["index"], labels=given["labels"]).mean()

    return {
        "KD": Row(with_labels(0.1, 0.9, forward_kl, temperature=4.0), term("KDLoss", alpha=0.1, **kd)),
        "KD without labels": Row(of("logits", forward_kl, temperature=4.0), term("KDLoss", alpha=0.0, **kd)),
        "AT, code": Row(all_stages("code"), term("ATLoss", at_pairs=at_pairs(STAGES), mode="code"), STAGES),
        "AT, paper": Row(all_stages("paper"), term("ATLoss", at_pairs=at_pairs(STAGES), mode="paper"), STAGES),
        "FitNets": Row(
            of("layer2", mse), term("MSELoss", reduction="mean"), "layer2", feature_pair("layer2", "layer2")
        ),
        "PKT": Row(of("pool", probabilistic, 1 / BATCH), term("PKTLoss", **pool), "pool"),
        "RKD distance": Row(
            of("pool", relational_distance), term("RKDLoss", dist_factor=1.0, angle_factor=0.0, **rkd), "pool"
        ),
        "RKD angle": Row(
            of("pool", relational_angle), term("RKDLoss", dist_factor=0.0, angle_factor=1.0, **rkd), "pool"
        ),
        "SPKD": Row(of("layer3", similarity_preserving), term("SPKDLoss", **spkd), "layer3"),
        "CRD": Row(contrast, term("CRDLoss", **crd_loss(size)), "pool"),
        "CRD, eps 0": Row(contrast, term("CRDLoss", **crd_loss(size), eps=0.0), "pool"),
        "DIST": Row(both_relations(1.0), term("DISTLoss", **ANSWERS)),
        "DIST, T = 4": Row(both_relations(4.0), term("DISTLoss", tau=4.0, **ANSWERS)),
        "standardised logits, V - 1": Row(with_labels(0.1, 9.0, standardised_kl, temperature=2.0, unbiased=True), std),
        "standardised logits, V": Row(with_labels(0.1, 9.0, standardised_kl, temperature=2.0), std),
        "knowledge review, one stage": Row(of("layer2", pyramid), term("HierarchicalContextLoss", **hcl), "layer2"),
    }


def values(peer: Peer, data: Data, folder: Path) -> dict[str, Any]:
    """Every loss and its gradient on the same signals, in single and in double precision."""
    loader = Loader(data.train, BATCH, seed=SEED)
    batch = loader.next()
    wants = ["logits", *(f"features.{name}" for name in (*STAGES, "pool"))]
    found: dict[str, dict[str, Any]] = {}
    models = {name: network(data, depth, GIVEN[name]) for name, depth in SIDES.items()}
    signals = {
        f"{side}.{name.removeprefix('features.')}": value
        for side, model in models.items()
        for name, value in Frozen(model).signals(batch, wants).items()
    }
    torch.manual_seed(SEED)
    contrast = CRD(signals["student.pool"], signals["teacher.pool"], examples=len(data.train), negatives=NEGATIVES)
    contrast.classes.copy_(data.train.fetch(torch.arange(len(data.train)), None)["labels"])
    for dtype in (torch.float32, torch.float64):
        crd = copy.deepcopy(contrast).to(dtype)
        given = {name: value.to(dtype) for name, value in signals.items()}
        given |= {"labels": batch["labels"], "index": batch["index"]}
        for name, row in one_precision(peer, given, crd, folder).items():
            found.setdefault(name, {})[str(dtype).removeprefix("torch.")] = row
    return found


def one_precision(peer: Peer, given: dict[str, Tensor], crd: CRD, folder: Path) -> dict[str, dict[str, float]]:
    drawn = torch.cat([given["index"].unsqueeze(1), copy.deepcopy(crd)._drawn(given["index"])], 1)
    held = {"student_bank": crd.student_bank, "teacher_bank": crd.teacher_bank, "rows": drawn}
    for side, embedding in (("student", crd.embed_student), ("teacher", crd.embed_teacher)):
        held |= {f"{side}_{name}": value.detach() for name, value in embedding.linear.named_parameters()}
    compared = rows(crd)
    torch.save(given | {name: value.clone() for name, value in held.items()}, folder / "tensors.pt")
    told = [row.told(name) for name, row in compared.items()]
    their_values = peer.ask("losses", tensors=folder / "tensors.pt", out=folder / "slopes.pt", rows=told)["values"]
    their_slopes = torch.load(folder / "slopes.pt")
    found = {}
    for name, row in compared.items():
        leaves = {f"student.{tap}": given[f"student.{tap}"].clone().requires_grad_() for tap in row.taps}
        value = row.ours(given | leaves)
        slopes = torch.autograd.grad(value, list(leaves.values()))
        other = [their_slopes[f"{name}/{key}"] for key in leaves]
        found[name] = {
            "ours": value.item(),
            "theirs": their_values[name],
            "difference": abs(value.item() - their_values[name]) / abs(their_values[name]),
            "gradient_difference": max(float((a - b).norm() / b.norm()) for a, b in zip(slopes, other, strict=True)),
        }
    return found


# --- training --------------------------------------------------------------------------------

SIDES = {"student": 20, "teacher": 56}
GIVEN = {side: f"weights/cifar10_resnet{depth}.safetensors" for side, depth in SIDES.items()}


@dataclass(frozen=True)
class Budget:
    """What a training takes, where its student starts (None: random weights), and the test images it is measured on."""

    steps: int
    lr: float
    student: str | None
    tested: int


DOUBLE = 20
"""Steps in double precision."""
BUDGETS = {"training": Budget(50, 0.002, GIVEN["student"], 2000), "whole": Budget(1000, 0.05, None, 5000)}


def network(data: Data, depth: int, weights: str | None) -> Model:
    """One of the two networks with the weights in a file, or random ones, the same at every call."""
    torch.manual_seed(SEED)
    net = ResNet(depth=depth).build(data.facts)
    if weights is not None:
        net.load_state_dict(load_weights(File(path=weights)))
    return Model(net, ImageView(VIEW))


class Totals(Listener):
    """The loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def heard(self, event: Event) -> None:
        if isinstance(event, Logged):
            self.losses.append(event.line["losses"]["total/student"])


class Ours:
    """The engine's loop on one case, a few steps at a time."""

    def __init__(self, data: Data, terms: list[dict[str, Any]], budget: Budget, folder: Path) -> None:
        self.student = network(data, SIDES["student"], budget.student)
        self.teacher = Frozen(network(data, SIDES["teacher"], GIVEN["teacher"]))
        example = data.train.fetch(torch.arange(4), None)
        roles = Roles(self.student, self.teacher, data.facts, example)
        self.method = Match.model_validate({"terms": terms}).build(roles)
        optimizer = SGD(lr=budget.lr, momentum=MOMENTUM, weight_decay=DECAY)
        settings = Train(steps=budget.steps, batch_size=BATCH, optimizer=optimizer, log_every=1)
        self.totals = Totals()
        stage = Stage("student", self.method, data.train, settings)
        self.loop = Loop(
            stage, process=Process("cpu"), folder=RunFolder(folder).open(), events=Events([self.totals]), seed=SEED
        )
        self.watched = modules_of(stage)

    def steps(self, count: int) -> dict[str, Any]:
        """Steps as `Loop.run` takes them."""
        done = len(self.totals.losses)
        with self.loop.ledger.watching(self.watched):
            began, busy = time.perf_counter(), time.process_time()
            for _ in range(count):
                self.loop.advance()
                self.loop.process.agree(False, self.loop._save_is_due())
            spent = {"seconds": time.perf_counter() - began, "processor": time.process_time() - busy}
        return {**spent, "losses": self.totals.losses[done:]}


def save_batches(data: Data, steps: int, file: Path) -> None:
    """What our loop is going to see, for the other side."""
    loader = Loader(data.train, BATCH, seed=derive(SEED, "data"))
    drawn: list[Batch] = [loader.next() for _ in range(steps)]
    view = ImageView(VIEW)
    torch.save(
        {
            "images": torch.stack([(batch["image"] * 255).round().to(torch.uint8) for batch in drawn]),
            "labels": torch.stack([batch["labels"] for batch in drawn]),
            "index": torch.stack([batch["index"] for batch in drawn]),
            "all_labels": data.train.fetch(torch.arange(len(data.train)), None)["labels"],
            "mean": view.mean,
            "std": view.std,
        },
        file,
    )


def config(budget: Budget) -> dict[str, Any]:
    """torchdistill's optimizer and schedule: ours, in its words."""
    return {
        "num_epochs": 1,
        "optimizer": {"key": "SGD", "kwargs": {"lr": budget.lr, "momentum": MOMENTUM, "weight_decay": DECAY}},
        "scheduler": {"key": "CosineAnnealingLR", "kwargs": {"T_max": budget.steps}, "scheduling_step": 1},
    }


def build_theirs(
    peer: Peer,
    method: str,
    case: dict[str, Any],
    ours: Ours,
    budget: Budget,
    folder: Path,
    batches: str = "batches.pt",
) -> None:
    """The same student, teacher and parts on the other side."""
    parts = their_parts(method, dict(ours.method.student.parts.items()))  # type: ignore[attr-defined]
    state = {
        "student": ours.student.network.state_dict(),
        "teacher": ours.teacher.network.state_dict(),
        "parts": parts,
    }
    torch.save(state, folder / "weights.pt")
    peer.ask("seed", seed=SEED)
    files = {"weights": folder / "weights.pt", "batches": folder / batches}
    peer.ask("build", case=case, config=config(budget), **files)


def training(peer: Peer, data: Data, method: str, budget: Budget, folder: Path) -> dict[str, Any]:
    """Both sides' time a step, losses, accuracy, and whether the teacher was changed."""
    terms, case = cases(len(data.train))[method]
    ours = Ours(data, terms, budget, folder / f"{method}-{budget.steps}")
    before = content(ours.teacher.network.state_dict())
    build_theirs(peer, method, case, ours, budget, folder)
    blocks = {"ours": [], "theirs": []}
    for number in range(budget.steps // BLOCK):
        turns = [("ours", lambda: ours.steps(BLOCK)), ("theirs", lambda: peer.ask("steps", count=BLOCK))]
        for name, take in turns if number % 2 == 0 else reversed(turns):
            blocks[name].append(take())
    students = {"ours": ours.student, "theirs": their_student(peer, data, budget, folder)}
    finished = torch.load(folder / "finished.pt")
    right = {side: answers(student, data, budget.tested) for side, student in students.items()}
    return {
        "steps": budget.steps,
        **{clock: speed(blocks, clock) for clock in ("seconds", "processor")},
        **trajectories({name: [loss for block in taken for loss in block["losses"]] for name, taken in blocks.items()}),
        **accuracies(right["ours"], right["theirs"]),
        "teacher_unchanged_ours": content(ours.teacher.network.state_dict()) == before,
        "teacher_unchanged_theirs": content(finished["teacher"]) == before,
        "load": os.getloadavg()[0],
    }


def double(peer: Peer, data: Data, method: str, folder: Path) -> dict[str, Any]:
    """How far apart the two students are after a few steps in double precision, as a share of the way they went.

    `moved_apart` is how far ours comes from itself where it starts from weights moved by one part in 10^8: how much
    of a small difference the training makes.
    """
    with precision(peer, "float64"):
        budget = replace(BUDGETS["whole"], steps=DOUBLE)
        terms, case = cases(len(data.train))[method]
        ours = Ours(data, terms, budget, folder / f"{method}-double")
        begun = parameters(ours.student.network.state_dict())
        save_batches(data, DOUBLE, folder / "batches-double.pt")
        build_theirs(peer, method, case, ours, budget, folder, "batches-double.pt")
        losses = {"ours": ours.steps(DOUBLE)["losses"], "theirs": peer.ask("steps", count=DOUBLE)["losses"]}
        peer.ask("finish", out=folder / "finished.pt")
        moved = Ours(data, terms, budget, folder / f"{method}-double-moved")
        move(moved.student, 1e-8, seed=1)
        moved.steps(DOUBLE)
    left = parameters(ours.student.network.state_dict())
    others = {"students": torch.load(folder / "finished.pt")["student"], "moved": moved.student.network.state_dict()}
    way = (left - begun).norm()
    apart = {f"{name}_apart": float((left - parameters(state)).norm() / way) for name, state in others.items()}
    return {"steps": DOUBLE, "first_step_apart": trajectories(losses)["first_step_apart"], **apart}


@torch.no_grad()
def move(model: Model, share: float, *, seed: int) -> None:
    """Change every weight by about this share of itself."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.network.parameters():
        parameter.mul_(1 + share * torch.randn(parameter.shape, generator=rng))


@contextmanager
def precision(peer: Peer, name: str) -> Iterator[None]:
    """Both processes make their networks, and compute, in a precision of this name."""
    before = str(torch.get_default_dtype()).removeprefix("torch.")
    try:
        torch.set_default_dtype(getattr(torch, name))
        peer.ask("precision", name=name)
        yield
    finally:
        torch.set_default_dtype(getattr(torch, before))
        peer.ask("precision", name=before)


def parameters(state: Mapping[str, Tensor]) -> Tensor:
    """The parameters of a network's state, all in one row, [P]: nothing of batch norm's statistics."""
    kept = [value.flatten() for name, value in sorted(state.items()) if name.endswith(("weight", "bias"))]
    return torch.cat(kept).double()


def again(peer: Peer, data: Data, method: str, budget: Budget, folder: Path) -> dict[str, list[float]]:
    """Both sides' accuracy in two more trainings from weights moved by one part in 10^5: the luck of training."""
    terms, case = cases(len(data.train))[method]
    found: dict[str, list[float]] = {"ours": [], "theirs": []}
    for draw in (1, 2):
        ours = Ours(data, terms, budget, folder / f"{method}-again-{draw}")
        move(ours.student, 1e-5, seed=draw)
        build_theirs(peer, method, case, ours, budget, folder)
        ours.steps(budget.steps)
        found["ours"].append(float(answers(ours.student, data, budget.tested).mean()))
        peer.ask("steps", count=budget.steps)
        found["theirs"].append(float(answers(their_student(peer, data, budget, folder), data, budget.tested).mean()))
    return found


def their_student(peer: Peer, data: Data, budget: Budget, folder: Path) -> Model:
    """The student that the other side has trained."""
    peer.ask("finish", out=folder / "finished.pt")
    other = network(data, SIDES["student"], budget.student)
    other.network.load_state_dict(torch.load(folder / "finished.pt")["student"])
    return other


def speed(blocks: dict[str, list[dict[str, Any]]], clock: str) -> dict[str, float]:
    """Of a step, by the wall clock or by the processor's, which other work on the machine disturbs less.

    Medians over the blocks after the first, and of the ratios of neighbours, with their middle half.
    """
    kept = {name: [block[clock] / BLOCK for block in taken[1:]] for name, taken in blocks.items()}
    ratios = [a / b for a, b in zip(kept["ours"], kept["theirs"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "ours": statistics.median(kept["ours"]),
        "theirs": statistics.median(kept["theirs"]),
        "ratio": middle,
        "ratio_low": low,
        "ratio_high": high,
    }


def trajectories(losses: dict[str, list[float]]) -> dict[str, Any]:
    """How far apart the losses are at the first step, over the first ten, and at the end."""
    apart = [abs(a - b) / abs(b) for a, b in zip(losses["ours"], losses["theirs"], strict=True)]
    last = {f"last_loss_{name}": statistics.fmean(values[-10:]) for name, values in losses.items()}
    return {"first_step_apart": apart[0], "ten_steps_apart": max(apart[:10]), **last}


def accuracies(ours: Tensor, other: Tensor) -> dict[str, Any]:
    """Shares of right answers, their binomial error, and the paired difference with its interval."""
    difference = paired_interval(ours.tolist(), other.tolist())
    p, q = float(ours.mean()), float(other.mean())
    return {
        "ours_accuracy": p,
        "theirs_accuracy": q,
        "binomial_error": (p * (1 - p) / len(ours)) ** 0.5,
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
    }


@torch.no_grad()
def answers(model: Model, data: Data, tested: int) -> Tensor:
    """Which of the first test images a student gets right, as zeros and ones."""
    model.eval()
    right = []
    for start in range(0, tested, 250):
        batch = data.test.fetch(torch.arange(start, start + 250), None)
        right.append(model.signals(batch)["logits"].argmax(1) == batch["labels"])
    return torch.cat(right).double()


def content(state: Mapping[str, Tensor]) -> str:
    """A hash of every parameter and buffer, by name."""
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def documented(peer: Peer, data: Data, folder: Path) -> dict[str, Any]:
    """What torchdistill's documented example does to the teacher, which it leaves as it was built: in training mode."""
    terms, case = cases(len(data.train))["kd"]
    budget = replace(BUDGETS["training"], steps=20)
    ours = Ours(data, terms, budget, folder / "documented")
    before = answers(ours.teacher, data, budget.tested)
    build_theirs(peer, "kd", case | {"as_documented": True}, ours, budget, folder)
    peer.ask("steps", count=budget.steps)
    peer.ask("finish", out=folder / "finished.pt")
    after = network(data, SIDES["teacher"], GIVEN["teacher"])
    after.network.load_state_dict(torch.load(folder / "finished.pt")["teacher"])
    state, was = after.network.state_dict(), ours.teacher.network.state_dict()
    moved = [name for name in state if not torch.equal(state[name], was[name])]
    return {
        "steps": budget.steps,
        "teacher_accuracy_before": float(before.mean()),
        "teacher_accuracy_after": float(answers(after, data, budget.tested).mean()),
        "tensors_changed": len(moved),
        "tensors": len(state),
        "parameters_changed": len(set(moved) & {name for name, _ in after.network.named_parameters()}),
    }


# --- the other process -----------------------------------------------------------------------


class Peer:
    """torchdistill in its own process."""

    def __init__(self, python: Path, threads: int) -> None:
        if not python.exists():
            raise SystemExit(f"there is no {python}: make torchdistill's environment as the head of this file says")
        environment = os.environ | {"PYTHONPATH": str(HERE.parent / "src"), "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [python, "-P", HERE / "torchdistill_peer.py", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **options}, default=str) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("torchdistill's process stopped; its own error stands above")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def start(data: Data, budget: Budget) -> dict[str, Any]:
    """What the page says of a budget, with the accuracy of the networks before it."""
    given = {"student": budget.student, "teacher": GIVEN["teacher"]}
    found = {side: answers(network(data, SIDES[side], file), data, budget.tested) for side, file in given.items()}
    accuracy = {f"{side}_accuracy": float(right.mean()) for side, right in found.items()}
    return {"batch": BATCH, "lr": budget.lr, "tested": budget.tested, "negatives": NEGATIVES, **accuracy}


def keep(part: str, name: str | None, result: Any) -> None:
    """Add a result to the file, beside what is there."""
    held = json.loads(FILE.read_text()) if FILE.exists() else {}
    held["machine"] = machine()
    if name is None:
        held[part] = result
    else:
        held.setdefault(part, {})[name] = result
    FILE.write_text(json.dumps(held, indent=1) + "\n")
    print(json.dumps({part: {name: result} if name else result}, indent=1), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--parts", default="values,documented,training,double,whole")
    parser.add_argument("--methods", default=None)
    parser.add_argument("--peer", type=Path, default=PEER)
    options = parser.parse_args()
    set_root(options.root)
    torch.set_num_threads(1)
    methods = options.methods.split(",") if options.methods else list(cases(1))
    data = ImageParquet(path="cifar10").build()
    peer = Peer(options.peer, 1)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if "values" in options.parts:
            keep("values", None, values(peer, data, folder))
        save_batches(data, max(budget.steps for budget in BUDGETS.values()), folder / "batches.pt")
        if "documented" in options.parts:
            keep("documented", None, documented(peer, data, folder))
        for part, budget in BUDGETS.items():
            if part not in options.parts:
                continue
            keep("start", part, start(data, budget))
            for method in methods:
                keep(part, method, training(peer, data, method, budget, folder))
        if "double" in options.parts:
            for method in methods:
                keep("double", method, double(peer, data, method, folder))
        if "luck" in options.parts:
            for method in methods:
                keep("luck", method, again(peer, data, method, BUDGETS["whole"], folder))
    peer.close()


if __name__ == "__main__":
    main()
