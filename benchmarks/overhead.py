"""A step of ours against a hand-written loop of plain PyTorch: the same networks, batch, loss and optimizer.

    python benchmarks/overhead.py [--cases linear,vision,language,two-players] [--rounds 7]

Both sides draw a shuffled batch from the same source, run teacher and student, step the same fused
optimizer and read the loss once a step (to stop at a NaN). Targets: at most 1.03 times the bare
vision step, 1.05 times the language and the two-player step, 100 microseconds on the linear one.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from side_by_side import against, interleaved, save
from stillhouse.engine.contracts import Batch, Facts, Stage
from stillhouse.engine.events import Events
from stillhouse.engine.folder import RunFolder
from stillhouse.engine.loop import Loop, modules_of
from stillhouse.engine.process import Process
from stillhouse.engine.settings import SGD, AdamW, Train
from stillhouse.methods.kinds import DMD, Match
from stillhouse.methods.roles import Roles
from stillhouse.networks.kinds import MLP, Denoiser, OneStep, ResNet
from stillhouse.networks.samplers import noise_levels
from stillhouse.objectives.kinds import KL, CrossEntropy
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.kinds import Digits
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model
from stillhouse.views.tokens import TokenView

COUNTING = ExitStack()
TERMS = [KL(temperature=4.0, weight=0.9), CrossEntropy(signal="labels", weight=0.1)]


def kd_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """What the bare loop writes by hand: 0.9 * 16 * KL + 0.1 * cross-entropy, means over the batch."""
    soft = functional.kl_div(
        functional.log_softmax(student / 4, -1),
        functional.log_softmax(teacher / 4, -1),
        reduction="sum",
        log_target=True,
    )
    count = labels.numel()
    return 0.9 * 16 * soft / count + 0.1 * functional.cross_entropy(student, labels)


def loop_of(stage: Stage) -> Loop:
    folder = RunFolder(Path(tempfile.mkdtemp())).open()
    loop = Loop(stage, process=process(), folder=folder, events=Events(), seed=0)
    COUNTING.enter_context(loop.ledger.watching(modules_of(stage)))
    return loop


def process() -> Process:
    return Process(None if torch.cuda.is_available() else "cpu")


def stepper(loop: Loop, steps: int) -> Callable[[], None]:
    """Runs some steps as `Loop.run` does: turns, logging, counting, the look for a stop and a due checkpoint."""

    def run() -> None:
        for _ in range(steps):
            loop.step %= loop.steps - 1
            loop.advance()
            loop.process.agree(False, loop._save_is_due())

    return run


def bare_batches(source: ImageArray, size: int, device: torch.device) -> Callable[[], Batch]:
    order, position = torch.randperm(len(source)), 0
    rng = torch.Generator()

    def draw() -> Batch:
        nonlocal order, position
        if position + size > len(source):
            order, position = torch.randperm(len(source)), 0
        batch = source.fetch(order[position : position + size], rng)
        position += size
        return {name: value.to(device) for name, value in batch.items()}

    return draw


def classification(
    student: nn.Module,
    teacher: nn.Module,
    source: ImageArray,
    size: int,
    steps: int,
    facts: Facts,
    optimizer: SGD | AdamW,
):
    """Ours and bare, for a classifier."""
    device = process().device
    bare_student, bare_teacher = copy.deepcopy(student).to(device), copy.deepcopy(teacher).to(device).eval()
    bare_teacher.requires_grad_(False)
    view = ImageView(Image())
    example = source.fetch(torch.arange(4), None)
    model, frozen = Model(student, view).to(device), Frozen(Model(teacher, view)).to(device)
    roles = Roles(model, frozen, facts, {k: v.to(device) for k, v in example.items()})
    settings = Train(steps=10**6, batch_size=size, optimizer=optimizer)
    ours = loop_of(Stage("student", Match(terms=TERMS).build(roles), source, settings))
    options = optimizer.model_dump(exclude={"kind"})
    bare_optimizer = optimizer.target()(bare_student.parameters(), fused=True, **options)
    draw = bare_batches(source, size, device)

    def bare() -> None:
        for _ in range(steps):
            batch = draw()
            with torch.no_grad():
                target = bare_teacher(batch["image"])
            loss = kd_loss(bare_student(batch["image"]), target, batch["labels"])
            bare_optimizer.zero_grad()
            loss.backward()
            bare_optimizer.step()
            loss.item()

    bare_student.train()
    return {"ours": stepper(ours, steps), "bare": bare}


def linear(rounds: int) -> dict[str, float]:
    """A linear student on wide inputs, whose bare step takes a few milliseconds."""
    facts = Facts("classification", (3, 32, 32), 100)
    images, labels = torch.rand(1024, *facts.shape), torch.randint(100, (1024,))
    source = ImageArray(images, labels, fingerprint="noise")
    nets = MLP().build(facts), MLP().build(facts)
    steps = 50
    seconds = interleaved(classification(*nets, source, 64, steps, facts, SGD(lr=1e-3)), rounds=rounds)
    return per_step(against(seconds, "ours", "bare"), steps)


def vision(rounds: int) -> dict[str, float]:
    """ResNet-56 to ResNet-20 on 32 x 32 images, batch 128."""
    facts = Facts("classification", (3, 32, 32), 10)
    images, labels = torch.randint(256, (1024, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (1024,))
    source = ImageArray(images, labels, fingerprint="noise", pad=4, flip=True)
    nets = ResNet(depth=20).build(facts), ResNet(depth=56).build(facts)
    steps = 20 if torch.cuda.is_available() else 1
    seconds = interleaved(classification(*nets, source, 128, steps, facts, SGD(lr=1e-2)), rounds=rounds)
    return per_step(against(seconds, "ours", "bare"), steps)


class Tokens:
    """Blocks of random token ids."""

    fingerprint, augments = "noise", False

    def __init__(self, count: int, length: int, vocabulary: int) -> None:
        self.ids = torch.randint(vocabulary, (count, length))

    def __len__(self) -> int:
        return len(self.ids)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        ids = self.ids[indices]
        return {"index": indices, "input_ids": ids, "labels": ids}


def language(rounds: int) -> dict[str, float]:
    """A tiny Llama, batch 4 x 256 tokens, vocabulary 32,000: forward KL and cross-entropy on every token."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def llama(width: int, layers: int) -> nn.Module:
        config = LlamaConfig(
            vocab_size=32_000,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
        )
        return LlamaForCausalLM(config)

    device = process().device
    student, teacher = llama(128, 2), llama(256, 4)
    bare_student, bare_teacher = copy.deepcopy(student).to(device), copy.deepcopy(teacher).to(device).eval()
    bare_teacher.requires_grad_(False)
    source, view = Tokens(256, 256, 32_000), TokenView()
    facts = Facts("language", (256,), 32_000)
    example = {name: value.to(device) for name, value in source.fetch(torch.arange(2), None).items()}
    roles = Roles(Model(student, view).to(device), Frozen(Model(teacher, view)).to(device), facts, example)
    settings = Train(steps=10**6, batch_size=4, optimizer=AdamW(lr=1e-4))
    ours = loop_of(Stage("student", Match(terms=TERMS).build(roles), source, settings))
    optimizer = torch.optim.AdamW(bare_student.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    draw = bare_batches(source, 4, device)  # type: ignore[arg-type]
    steps = 20 if torch.cuda.is_available() else 1

    def bare() -> None:
        for _ in range(steps):
            ids = draw()["input_ids"]
            with torch.no_grad():
                target = bare_teacher(input_ids=ids).logits[:, :-1].flatten(0, 1)
            logits = bare_student(input_ids=ids).logits[:, :-1].flatten(0, 1)
            loss = kd_loss(logits, target, ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return per_step(
        against(interleaved({"ours": stepper(ours, steps), "bare": bare}, rounds=rounds), "ours", "bare"), steps
    )


def two_players(rounds: int) -> dict[str, float]:
    """Distribution matching on 8 x 8 digits: five critic updates and one of the generator."""
    data = Digits(shift=0).build()
    device, source, view = process().device, data.train, ImageView(Image())
    teacher = Denoiser().build(data.facts)
    nets = [copy.deepcopy(teacher).to(device) for _ in range(3)]
    example = {name: value.to(device) for name, value in source.fetch(torch.arange(4), None).items()}
    student = Model(copy.deepcopy(teacher), view).to(device)
    sampler = OneStep(sigma=2.5).build(student)
    roles = Roles(student, Frozen(Model(teacher, view)).to(device), data.facts, example, sampler)
    kind = DMD(critic_updates=5)
    settings = Train(steps=10**6, batch_size=64, optimizer=AdamW(lr=1e-4))
    ours = loop_of(Stage("student", kind.build(roles), source, settings))
    bare = bare_dmd(nets, kind, 2.5, bare_batches(source, 64, device))
    seconds = interleaved({"ours": stepper(ours, 2), "bare": lambda: (bare(), bare())}, rounds=rounds)
    return per_step(against(seconds, "ours", "bare"), 2)


def bare_dmd(nets: list[nn.Module], kind: DMD, start: float, draw: Callable[[], Batch]) -> Callable[[], None]:
    """The same algorithm written by hand."""
    generator, critic, teacher = nets
    teacher.eval().requires_grad_(False)
    make = lambda net: torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.0, fused=True)  # noqa: E731
    generator_steps, critic_steps = make(generator), make(critic)
    deviation = float(teacher.sigma_data)  # type: ignore[arg-type]

    def generate(batch: Batch) -> Tensor:
        noise = torch.randn_like(batch["image"]) * start
        return generator(noise, torch.full((len(noise),), start, device=noise.device), batch["labels"])

    def noised(x: Tensor) -> tuple[Tensor, Tensor]:
        sigma = noise_levels(torch.rand(len(x), device=x.device), kind.sigma_min, kind.sigma_max)
        return x + sigma[:, None, None, None] * torch.randn_like(x), sigma

    def step() -> None:
        critic.requires_grad_(True)
        for _ in range(kind.critic_updates):
            batch = draw()
            with torch.no_grad():
                x = generate(batch)
            x_t, sigma = noised(x)
            error = (critic(x_t, sigma, batch["labels"]) - x).square().flatten(1).mean(1)
            loss = (error * (sigma**2 + deviation**2) / (sigma * deviation) ** 2).mean()
            critic_steps.zero_grad()
            loss.backward()
            critic_steps.step()
            loss.item()
        critic.requires_grad_(False)
        batch = draw()
        x = generate(batch)
        with torch.no_grad():
            x_t, sigma = noised(x)
            real, fake = teacher(x_t, sigma, batch["labels"]), critic(x_t, sigma, batch["labels"])
            weight = 1 / (x - real).abs().flatten(1).mean(1)
            target = x - weight[:, None, None, None] * (fake - real)
        loss = 0.5 * functional.mse_loss(x, target)
        generator_steps.zero_grad()
        loss.backward()
        generator_steps.step()
        loss.item()

    return step


def per_step(row: dict[str, float], steps: int) -> dict[str, float]:
    return {name: value / steps if name.endswith(("_ms", "_us")) else value for name, value in row.items()}


CASES = {"linear": linear, "vision": vision, "language": language, "two-players": two_players}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    save("overhead", {case: CASES[case](options.rounds) for case in options.cases.split(",")})


if __name__ == "__main__":
    main()
