"""An epoch with targets from a store against an epoch of the student alone, on labels.

    python benchmarks/store.py [--root DATA] [--examples N] [--repeats R] [--threads T]

Four students take turns in one process, through the engine: alone (cross-entropy on labels); with
targets (cross-entropy and KL to the teacher's logits) from a tensor in memory, from a store, and from
the live teacher. The tensor shows what the divergence costs by itself. Gives
medians of the seconds of an epoch, and the median of the ratios to the student alone within
each run; both also in processor time, which other work on the machine disturbs less. The networks
have random weights: what the targets say costs no time.

Cases: `digits`, the networks and batch of kd-digits; `cifar10`, those of kd-cifar10 (ResNet-56 to
ResNet-20, batch 128) on random 32 x 32 images, or on the data set in DATA/cifar10 where --root is
given; `text`, a Llama of two layers, 4 x 256 tokens a batch and 32,000 words, top 32 stored.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from side_by_side import save
from stillhouse.engine.contracts import Batch, Facts, Signals, Source, Stage
from stillhouse.engine.events import Events
from stillhouse.engine.folder import RunFolder
from stillhouse.engine.loop import Loop
from stillhouse.engine.paths import set_root
from stillhouse.engine.process import Process
from stillhouse.engine.settings import SGD, Train
from stillhouse.methods.kinds import Match
from stillhouse.methods.roles import Roles
from stillhouse.networks.kinds import ConvNet, Llama, NetworkKind, ResNet
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.kinds import Digits, ImageParquet
from stillhouse.sources.text import TextBlocks
from stillhouse.store import Dense, Layout, Store, TopK, build_store, info
from stillhouse.teachers.frozen import Frozen
from stillhouse.teachers.stored import StoredTeacher
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model
from stillhouse.views.tokens import TokenView

ON_LABELS = [{"signal": "labels", "by": "cross_entropy"}]
ON_BOTH = [*ON_LABELS, {"signal": "logits", "by": "kl", "temperature": 1.0}]


class InMemory(nn.Module):
    """Targets that cost nothing to get."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def signals(self, batch: Batch, wants: Iterable[str] = ("logits",)) -> Signals:
        return {"logits": self.logits[batch["index"]]}


class Case:
    """Data, two networks, and the store of the one's answers."""

    def __init__(
        self,
        source: Source,
        facts: Facts,
        teacher: NetworkKind,
        student: NetworkKind,
        batch_size: int,
        layout: Layout,
        folder: Path,
        epochs: int = 1,
    ) -> None:
        self.source, self.facts, self.student, self.batch_size, self.folder = source, facts, student, batch_size, folder
        self.epochs = epochs
        self.teacher = Frozen(self.model(teacher))
        began = time.perf_counter()
        self.store = build_store(
            folder / "store", self.teacher, source, signals={"logits": layout}, batch_size=batch_size
        )
        self.build_seconds = time.perf_counter() - began

    def model(self, kind: NetworkKind) -> Model:
        view = TokenView() if self.facts.task == "language" else ImageView(Image())
        torch.manual_seed(0)
        return Model(kind.build(self.facts), view)

    def epoch(self, teacher: Any) -> tuple[float, float]:
        """Wall-clock and processor seconds of an epoch of a new student, the mean of `epochs` of them."""
        example = self.source.fetch(torch.arange(4), None)
        terms = ON_LABELS if teacher is None else ON_BOTH
        method = Match.model_validate({"terms": terms}).build(
            Roles(self.model(self.student), teacher, self.facts, example)
        )
        train = Train(epochs=self.epochs, batch_size=self.batch_size, optimizer=SGD(lr=0.01))
        stage = Stage("student", method, self.source, train)
        with tempfile.TemporaryDirectory() as folder, RunFolder(Path(folder)) as opened:
            loop = Loop(stage, process=Process("cpu"), folder=opened, events=Events(), seed=0)
            wall, processor = time.perf_counter(), time.process_time()
            loop.run()
            return (time.perf_counter() - wall) / self.epochs, (time.process_time() - processor) / self.epochs

    def measure(self, repeats: int) -> dict[str, Any]:
        stored = StoredTeacher(Store.open(self.folder / "store"), self.source)
        in_memory = InMemory(stored.store.read(torch.arange(len(stored.store)))["logits"])
        arms = {"alone": None, "in_memory": in_memory, "stored": stored, "live": self.teacher}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
        for run in range(repeats + 1):
            for name, teacher in arms.items():
                seconds = self.epoch(teacher)
                if run:  # the first warms up
                    taken[name].append(seconds)
        assert stored.fraction == 1.0
        return {
            "examples": len(self.source),
            "batch_size": self.batch_size,
            **{clock: _compared(taken, number) for number, clock in enumerate(("wall", "processor"))},
            "build_seconds": round(self.build_seconds, 3),
            "store": info(self.folder / "store")["signals"]["logits"],
        }


def _compared(taken: dict[str, list[tuple[float, float]]], clock: int) -> dict[str, Any]:
    """Medians by arm, and of the ratios to the student alone in the same run."""
    seconds = {name: [run[clock] for run in runs] for name, runs in taken.items()}
    return {
        "epoch_seconds": {name: round(statistics.median(runs), 4) for name, runs in seconds.items()},
        "ratio_to_student_alone": {
            name: round(statistics.median(a / b for a, b in zip(runs, seconds["alone"], strict=True)), 4)
            for name, runs in seconds.items()
        },
    }


def digits_case(folder: Path, examples: int) -> Case:
    data = Digits(shift=0).build()
    return Case(data.train, data.facts, ResNet(depth=20, width=32), ConvNet(width=8), 64, Dense(), folder, epochs=4)


def cifar10_case(folder: Path, examples: int, real: bool) -> Case:
    if real:
        data = ImageParquet(path="cifar10", crop=0, flip=False).build()
        source: Source = ImageArray(
            data.train.images, data.train.labels, rows=torch.arange(examples), fingerprint=f"first {examples}"
        )
    else:
        images = torch.randint(256, (examples, 3, 32, 32), dtype=torch.uint8)
        source = ImageArray(images, torch.randint(10, (examples,)), fingerprint="random")
    facts = Facts("classification", (3, 32, 32), 10)
    return Case(source, facts, ResNet(depth=56), ResNet(depth=20), 128, Dense(), folder)


def text_case(folder: Path, examples: int) -> Case:
    facts = Facts("language", (256,), 32_000)
    source = TextBlocks(torch.randint(32_000, (examples, 256)))
    return Case(source, facts, Llama(layers=2, width=256), Llama(layers=2, width=128), 4, TopK(32), folder)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", type=Path, help="a folder with cifar10/*.parquet; random images without it")
    options.add_argument("--examples", type=int, default=2560, help="images of the cifar10 case")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--cases", nargs="+", default=["digits", "cifar10", "text"])
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    set_root(chosen.root)
    made = {
        "digits": lambda folder: digits_case(folder, chosen.examples),
        "cifar10": lambda folder: cifar10_case(folder, chosen.examples, chosen.root is not None),
        "text": lambda folder: text_case(folder, 16),
    }
    found: dict[str, Any] = {}
    for name in chosen.cases:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = made[name](Path(folder)).measure(chosen.repeats)
    save("store", found)


if __name__ == "__main__":
    main()
