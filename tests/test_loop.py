"""The loop: who is updated, on what, and what a bad loss does."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine import checkpoint
from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Stage, Turn
from stillhouse.engine.events import Event, Events, Listener, Progress, Said
from stillhouse.engine.folder import RunFolder
from stillhouse.engine.loop import Loop
from stillhouse.engine.process import Process
from stillhouse.engine.reduction import summed
from stillhouse.engine.settings import SGD, AdamW, PlayerSettings, Train
from stillhouse.errors import RunFailed, StillhouseError

DIM = 5


class Numbers:
    """Rows of fixed random numbers, a target each, and a mask of varying count."""

    fingerprint = "numbers"

    def __init__(self, count: int = 32) -> None:
        rng = torch.Generator().manual_seed(7)
        self.x = torch.randn(count, DIM, generator=rng)
        self.y = torch.randn(count, 1, generator=rng)
        self.mask = torch.rand(count, 1, generator=rng) < 0.6

    def __len__(self) -> int:
        return len(self.x)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        return {"index": indices, "x": self.x[indices], "y": self.y[indices], "mask": self.mask[indices]}


class Regression(Method):
    """One player, squared error on the unmasked rows."""

    def __init__(self, masked: bool = True) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.student = Player(nn.Linear(DIM, 1))
        self.masked = masked
        self.seen: list[Tensor] = []

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update)

    def update(self, batch: Batch, rng: torch.Generator) -> Losses:
        self.seen.append(batch["index"])
        values = (self.student(batch["x"]) - batch["y"]) ** 2
        return Losses(squares=Loss(values, where=batch["mask"] if self.masked else None, weight=1.3))


OPEN: list[RunFolder] = []


@pytest.fixture(autouse=True)
def _close_folders() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def loop(tmp_path: Path, method: Method, events: Events | None = None, name: str = "s", **train: object) -> Loop:
    settings = Train(**({"steps": 4, "optimizer": SGD(lr=0.1), "schedule": "constant", "log_every": 1} | train))  # type: ignore[arg-type]
    folder = RunFolder(tmp_path / name).open()
    OPEN.append(folder)
    stage = Stage("student", method, Numbers(), settings)
    return Loop(stage, process=Process("cpu"), folder=folder, events=events or Events(), seed=3)


def logged(tmp_path: Path, name: str = "s") -> list[dict]:
    return [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]


def test_masked_loss_is_the_mean_of_what_counts(tmp_path: Path):
    method = Regression()
    run = loop(tmp_path, method, steps=1, batch_size=32)
    before = [p.detach().clone().double() for p in method.student.module.parameters()]
    run.run()
    source = Numbers()
    weight, bias = (p.requires_grad_() for p in before)
    error = ((source.x.double() @ weight.t() + bias - source.y.double()) ** 2)[source.mask].mean() * 1.3
    for parameter, start, gradient in zip(
        method.student.module.parameters(), before, torch.autograd.grad(error, [weight, bias]), strict=True
    ):
        torch.testing.assert_close(parameter.double(), (start - 0.1 * gradient), atol=1e-6, rtol=1e-6)
    assert logged(tmp_path)[0]["losses"]["total/student"] == pytest.approx(error.item(), rel=1e-5)


def test_eight_micro_batches_are_one_batch(tmp_path: Path):
    """SGD, so that a wrong scale shows; masks, so that micro-batches differ in what counts."""
    whole, parts = Regression(), Regression()
    loop(tmp_path, whole, name="whole", batch_size=32).run()
    loop(tmp_path, parts, name="parts", batch_size=4, accumulate=8).run()
    assert torch.equal(torch.cat(whole.seen).sort().values, torch.cat(parts.seen).sort().values)
    for a, b in zip(whole.student.module.parameters(), parts.student.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    for one, other in zip(logged(tmp_path, "whole"), logged(tmp_path, "parts"), strict=True):
        assert one["losses"] == pytest.approx(other["losses"], rel=1e-5)


class TwoCounts(Regression):
    def update(self, batch: Batch, rng: torch.Generator) -> Losses:
        losses = super().update(batch, rng)
        losses["all"] = Loss(self.student(batch["x"]).abs())
        return losses


def test_accumulating_terms_of_different_counts_is_refused(tmp_path: Path):
    with pytest.raises(StillhouseError, match="count the same things"):
        loop(tmp_path, TwoCounts(), batch_size=4, accumulate=8).run()
    loop(tmp_path, TwoCounts(), name="plain", batch_size=32).run()


class Duel(Method):
    """Two players at two time scales, each pushing through the other's output."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.student, self.critic = Player(nn.Linear(DIM, 1)), Player(nn.Linear(1, 1))
        self.order: list[str] = []
        self.drift: list[tuple[str, dict[str, bool]]] = []

    def schedule(self) -> Iterator[Turn]:
        yield Turn("critic", self.update_critic)
        yield Turn("critic", self.update_critic, fresh=False)
        yield Turn("student", self.update_student)

    def update_critic(self, batch: Batch, rng: torch.Generator) -> Losses:
        self.order.append("critic")
        assert all(p.requires_grad for p in self.critic.parameters())
        assert not any(p.requires_grad for p in self.student.parameters())
        self.batch = batch
        return Losses(fit=(self.critic(self.student(batch["x"])) - batch["y"]) ** 2)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        self.order.append("student")
        assert not any(p.requires_grad for p in self.critic.parameters())
        return Losses(score=-self.critic(self.student(batch["x"])))


def test_a_turn_updates_its_player_alone(tmp_path: Path):
    method = Duel()
    run = loop(tmp_path, method, steps=3, players={"critic": PlayerSettings(optimizer=AdamW(lr=0.5))})
    for turn in method.schedule():
        before = {n: [p.detach().clone() for p in player.parameters()] for n, player in method.players().items()}
        run._take(turn)
        for name, player in method.players().items():
            changed = any(not torch.equal(a, b) for a, b in zip(before[name], player.parameters(), strict=True))
            assert changed == (name == turn.player)
    method.order.clear()
    run.run()
    assert method.order == ["critic", "critic", "student"] * 3
    assert run.players["critic"].peaks == [0.5]
    assert run.players["student"].peaks == [0.1]


def test_a_turn_may_use_the_batch_before_again(tmp_path: Path):
    run = loop(tmp_path, Duel(), steps=2, batch_size=8)
    run.run()
    assert run.loader.position == 2 * 2, "two fresh batches a step, one used twice"


class Cursed(Regression):
    """The second term turns NaN at one step."""

    def __init__(self, at: int) -> None:
        super().__init__(masked=False)
        self.at = at

    def update(self, batch: Batch, rng: torch.Generator) -> Losses:
        losses = super().update(batch, rng)
        poison = math.nan if self.step == self.at else 1.0
        losses["curse"] = Loss(self.student(batch["x"]).abs() * poison)
        return losses


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path):
    method = Cursed(at=2)
    run = loop(tmp_path, method, checkpoint_steps=1)
    with pytest.raises(RunFailed) as caught:
        run.run()
    told = str(caught.value)
    assert "step 2" in told
    assert "'curse'" in told
    assert "student-00000002-" in told, "the last good checkpoint is named"
    assert caught.value.exit_code == 3
    assert all(torch.isfinite(p).all() for p in method.student.module.parameters())


class Heard(Listener):
    def __init__(self) -> None:
        self.events: list[Event] = []

    def heard(self, event: Event) -> None:
        self.events.append(event)


def test_a_few_such_steps_may_be_skipped(tmp_path: Path):
    heard = Heard()
    run = loop(tmp_path, Cursed(at=2), Events([heard]), skip_nonfinite=1)
    run.run()
    assert run.step == 4
    assert [e.text for e in heard.events if isinstance(e, Said) and "skipped (1 of 1 allowed)" in e.text]


class BadGradient(Regression):
    """A finite loss whose gradient is not: the square root at zero."""

    def update(self, batch: Batch, rng: torch.Generator) -> Losses:
        return Losses(root=(self.student(batch["x"]) * 0).sqrt())


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path):
    run = loop(tmp_path, BadGradient(), checkpoint_steps=1)
    with pytest.raises(RunFailed, match="not finite"):
        run.run()
    assert not run.checkpoints.found()
    clipped = loop(tmp_path, BadGradient(), name="clipped", clip=1.0)
    with pytest.raises(RunFailed, match="the gradient"):
        clipped.run()


def test_masked_values_take_no_part_even_when_not_finite(tmp_path: Path):
    class Padded(Regression):
        def update(self, batch: Batch, rng: torch.Generator) -> Losses:
            losses = super().update(batch, rng)
            term = losses["squares"]
            values = torch.where(batch["mask"], term.values, torch.nan)
            return Losses(squares=Loss(values, where=batch["mask"]))

    loop(tmp_path, Padded()).run()


def test_a_mask_of_weights_gives_a_weighted_mean(tmp_path: Path):
    """Also where the weights add up to less than one."""

    class Weighted(Regression):
        def update(self, batch: Batch, rng: torch.Generator) -> Losses:
            term = super().update(batch, rng)["squares"]
            return Losses(squares=Loss(term.values, where=batch["mask"] * 0.01 + 1e-3))

    method = Weighted()
    run = loop(tmp_path, method, steps=1, batch_size=32, optimizer=SGD(lr=0.1, momentum=0.0))
    weight, bias = (p.detach().clone().double().requires_grad_() for p in method.student.module.parameters())
    run.run()
    source = Numbers()
    where = source.mask * 0.01 + 1e-3
    squares = (source.x.double() @ weight.t() + bias - source.y.double()) ** 2
    mean = (squares * where).sum() / where.sum()
    mean.backward()
    assert where.sum() < 1
    assert weight.grad is not None
    assert logged(tmp_path)[0]["losses"]["total/student"] == pytest.approx(mean.item(), rel=1e-5)
    torch.testing.assert_close(method.student.module.weight.double(), weight - 0.1 * weight.grad, atol=1e-6, rtol=1e-6)


def test_losses_that_train_nothing_are_refused(tmp_path: Path):
    class Detached(Regression):
        def update(self, batch: Batch, rng: torch.Generator) -> Losses:
            return Losses(squares=super().update(batch, rng)["squares"].values.detach())

    with pytest.raises(StillhouseError, match=r"none of the losses .squares. depends"):
        loop(tmp_path, Detached()).run()


def test_a_mask_of_another_shape_is_refused(tmp_path: Path):
    class Skewed(Regression):
        def update(self, batch: Batch, rng: torch.Generator) -> Losses:
            return Losses(squares=Loss(self.student(batch["x"]), where=batch["mask"].squeeze(1)))

    with pytest.raises(StillhouseError, match="mask of shape"):
        loop(tmp_path, Skewed()).run()


def test_average_follows_its_closed_form(tmp_path: Path):
    method = Regression()
    run = loop(tmp_path, method, steps=1, ema=0.75)
    start = method.student.module.weight.detach().clone()
    run.run()
    assert method.student.average is not None
    expected = 0.75 * start + 0.25 * method.student.module.weight
    torch.testing.assert_close(method.student.average.weight, expected)
    assert method.student.final is method.student.average


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_reaches_the_losses(tmp_path: Path, precision: str, dtype: torch.dtype):
    class Typed(Regression):
        def update(self, batch: Batch, rng: torch.Generator) -> Losses:
            assert self.student(batch["x"]).dtype == dtype
            return super().update(batch, rng)

    method, plain = Typed(), Regression()
    run = loop(tmp_path, method, precision=precision)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=precision == "fp16")
    run.run()
    loop(tmp_path, plain, name="plain").run()
    assert method.student.module.weight.dtype == torch.float32
    for a, b in zip(method.student.parameters(), plain.student.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=0.02, rtol=0.02)
        assert not torch.equal(a, b)


def test_a_half_precision_loss_is_summed_in_full(tmp_path: Path):
    """4,096 ones: in bfloat16 the running sum stands still at 256, in half precision the last bits go."""

    class Half(Method):
        def __init__(self) -> None:
            self.student = Player(nn.Linear(1, 1))

        def schedule(self) -> Iterator[Turn]:
            yield Turn("student", self.update)

        def update(self, batch: Batch, rng: torch.Generator) -> Losses:
            values = (0 * self.student.module.weight + 1).expand(4097, 1).to(torch.float16)
            return Losses(large=Loss(values * 30), masked=Loss(values, where=torch.ones(4097, 1)))

    loop(tmp_path, Half(), steps=1).run()
    assert logged(tmp_path)[0]["losses"]["large"] == pytest.approx(30)
    assert logged(tmp_path)[0]["losses"]["masked"] == pytest.approx(1)


def test_a_loss_in_double_precision_stays_in_it():
    a_third = torch.full((3, 1), 1 / 3, dtype=torch.float64)
    for where in (None, torch.ones(3, 1)):
        total = summed(Losses(term=Loss(a_third, where=where)))
        assert total.dtype == torch.float64
        assert float(total) == pytest.approx(1, abs=1e-15)


def test_fp16_gradients_that_overflow_are_passed_over_and_the_scale_is_kept(tmp_path: Path):
    class Steep(Regression):
        def update(self, batch: Batch, rng: torch.Generator) -> Losses:
            return Losses(steep=Loss((self.student(batch["x"]) - batch["y"]) ** 2, weight=100.0))

    run = loop(tmp_path, Steep(), steps=12, precision="fp16", optimizer=SGD(lr=1e-4, momentum=0.0), clip=10.0)
    start = run.method.student.module.weight.detach().clone()
    assert run.scaler.get_scale() == 2.0**16
    run.advance()
    assert torch.equal(run.method.student.module.weight, start), "the first scale is too large: no update"
    assert run.scaler.get_scale() == 2.0**15
    while run.step < 12:
        run.advance()
    assert not torch.equal(run.method.student.module.weight, start)
    again = loop(tmp_path, Steep(), name="again", steps=12, precision="fp16", clip=10.0)
    again.load_state_dict(run.state_dict())
    assert again.scaler.get_scale() == run.scaler.get_scale() < 2.0**15


def test_compiled_forward_gives_the_same_losses(tmp_path: Path):
    plain, compiled = Regression(), Regression()
    loop(tmp_path, plain, name="plain").run()
    loop(tmp_path, compiled, name="compiled", compile=True).run()
    for a, b in zip(plain.student.parameters(), compiled.student.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_learning_rate_warms_up_and_falls(tmp_path: Path):
    run = loop(tmp_path, Regression(), steps=10, warmup=0.2, schedule="cosine")
    run.run()
    rates = [line["lr"]["student"] for line in logged(tmp_path)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * 7 / 8)))


def test_the_speed_shown_right_after_a_line_of_the_log_is_that_line_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stillhouse.engine.loop.DISPLAY_SECONDS", 0.0)
    seen = Heard()
    loop(tmp_path, Regression(), Events([seen]), steps=4, log_every=1).run()
    speeds = [event.examples_per_second for event in seen.events if isinstance(event, Progress)]
    assert len(speeds) == 4
    assert min(speeds) > 0


def test_an_unknown_player_is_named(tmp_path: Path):
    with pytest.raises(StillhouseError, match="critic"):
        loop(tmp_path, Regression(), players={"critic": PlayerSettings()})


def test_a_full_disk_says_so_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = loop(tmp_path, Regression(), checkpoint_steps=1)
    run._one_step()
    run.save()
    run._one_step()

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync", full)
    with pytest.raises(RunFailed, match="no space left"):
        run.save()
    assert [point.step for point in run.checkpoints.found()] == [1]
    assert not list((tmp_path / "s").rglob("*.tmp"))


def test_the_order_of_the_data_depends_on_seed_and_position_alone():
    from stillhouse.engine.loader import Loader

    one, other = (Loader(Numbers(), 8, seed=5) for _ in range(2))
    whole = [one.next()["index"] for _ in range(9)]
    other.position = 6
    assert [batch.tolist() for batch in whole[6:]] == [other.next()["index"].tolist() for _ in range(3)]
    assert sorted(torch.cat(whole[:4]).tolist()) == list(range(32)), "an epoch sees every example once"
    assert torch.cat(whole[:4]).tolist() != torch.cat(whole[4:8]).tolist(), "and is shuffled anew"
    halves = [Loader(Numbers(), 4, seed=5, rank=rank, world=2).next()["index"].tolist() for rank in (0, 1)]
    assert halves[0] + halves[1] == whole[0].tolist(), "two processes share the batch of one"


def test_state_of_a_method_is_kept(tmp_path: Path):
    """A replay buffer is part of the checkpoint."""

    class Replay(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.buffer = torch.zeros(0, DIM)

        def update(self, batch: Batch, rng: torch.Generator) -> Losses:
            noise = torch.randn(batch["x"].shape, generator=rng)
            self.buffer = torch.cat([self.buffer, batch["x"] + noise])[-12:]
            return Losses(squares=(self.student(self.buffer) ** 2) + functional.dropout(batch["y"].mean()))

        def state_dict(self) -> dict:
            return {"buffer": self.buffer}

        def load_state_dict(self, state: dict) -> None:
            self.buffer = state["buffer"]

    whole = Replay()
    loop(tmp_path, whole, name="whole", steps=6, batch_size=4).run()
    first = loop(tmp_path, Replay(), name="parts", steps=6, batch_size=4)
    for _ in range(3):
        first._one_step()
    first.save()
    first.folder.close()
    rest = Replay()
    loop(tmp_path, rest, name="parts", steps=6, batch_size=4).run()
    assert torch.equal(rest.buffer, whole.buffer)
    assert torch.equal(rest.student.module.weight, whole.student.module.weight)
