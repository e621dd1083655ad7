"""The loop: runs one stage, whatever its method."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.engine.checkpoint import Checkpoints
from stillhouse.engine.conflict import cosines
from stillhouse.engine.contracts import Batch, Losses, Stage, Turn
from stillhouse.engine.events import Events, Logged, Progress, Saved, StageBegins, StageEnds
from stillhouse.engine.folder import RunFolder
from stillhouse.engine.ledger import Ledger
from stillhouse.engine.loader import Loader
from stillhouse.engine.optim import Trainer
from stillhouse.engine.process import Process
from stillhouse.engine.reduction import (
    Count,
    counted,
    first_nonfinite,
    gradients,
    means,
    nonfinite_error,
    shared_count,
    summed,
)
from stillhouse.engine.seeds import derive, global_states, restore_global_states, seed_everything
from stillhouse.engine.settings import Train
from stillhouse.engine.sharding import gathered, local
from stillhouse.engine.stop import StopRequest
from stillhouse.errors import Interrupted, RunFailed, StillhouseError

DISPLAY_SECONDS = 0.2
"""Least time between two looks at the progress."""


class Window:
    """Means of what was logged since the last line of metrics.jsonl."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        for name, value in values.items():
            held = self.sums.get(name)
            self.sums[name] = value if held is None else held + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        return {name: float(value) / self.counts[name] for name, value in self.sums.items()}

    def clear(self) -> None:
        self.sums, self.counts = {}, {}


class Loop:
    """Runs a stage to its end, from its start or from its newest checkpoint.

    The loop knows players and turns. It draws batches, asks the method for losses, reduces
    them, differentiates, updates one player at a time, and saves.
    """

    def __init__(
        self, stage: Stage, *, process: Process, folder: RunFolder, events: Events, seed: int, looks: int = 0
    ) -> None:
        """`looks`: how often in the stage, evenly, the gradients of the student's terms are compared and logged."""
        self.stage, self.process, self.folder, self.events, self.looks = stage, process, folder, events, looks
        self.method = stage.method
        self.train: Train = stage.settings
        self.checkpoints = Checkpoints(folder.checkpoints)
        self.ledger = Ledger()
        seed_everything(derive(seed, stage.name, "global", process.rank))
        self.rng = torch.Generator(process.device).manual_seed(derive(seed, stage.name, "method", process.rank))
        for module in modules_of(stage).values():
            module.to(process.device)
        self.loader = Loader(
            stage.source,
            self.train.batch_size,
            seed=derive(seed, "data"),
            rank=process.rank,
            world=process.world,
            device=process.device,
        )
        self.players = self._trainers()
        self.steps = self._length()
        if looks and (process.sharded or self.train.compile):
            how = "players are sharded" if process.sharded else "train.compile is set"
            raise StillhouseError(
                f"gradients of single terms cannot be compared where {how}: leave gradient-conflict out of 'evaluate'"
            )
        self.step = 0
        self.skipped = 0
        self.window = Window()
        self.batch: Batch | None = None
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=self.train.precision == "fp16")
        self._saved_at = self._shown_at = time.perf_counter()
        self._saved_step = -1
        self._since = (time.perf_counter(), 0)
        self._told_speed = 0.0

    # --- the stage -------------------------------------------------------------------------

    def run(self) -> Stage:
        """Train to the end of the stage. Raises Interrupted after a stop was asked for and the state saved."""
        self._resume()
        self.events.send(StageBegins(self.stage.name, self.step, self.steps))
        with self.ledger.watching(modules_of(self.stage)), StopRequest() as stop:
            while self.step < self.steps:
                self.advance()
                stopping, due = self.process.agree(stop.asked, self._save_is_due())
                if stopping or due:
                    self.save()
                if stopping:
                    raise Interrupted(f"stopped at step {self.step} of {self.steps} of stage {self.stage.name!r}")
        self.events.send(StageEnds(self.stage.name, self.steps, self.ledger.seconds))
        return self.stage

    def advance(self) -> None:
        """One step: every turn of the method's schedule, and what is logged and shown of it."""
        began = time.perf_counter()
        self._one_step()
        self._tell()
        self.ledger.seconds += time.perf_counter() - began

    def _one_step(self) -> None:
        self.method.step, self.method.progress = self.step, self.step / self.steps
        for trainer in self.players.values():
            trainer.set_learning_rate(self.step, self.steps)
        for turn in self.method.schedule():
            self._take(turn)
        self.step += 1

    # --- one turn --------------------------------------------------------------------------

    def _take(self, turn: Turn) -> None:
        """Update one player on its losses; every other player's gradients are off meanwhile."""
        trainer = self._turn_of(turn.player)
        trainer.drop_gradients()
        losses, terms = self._differentiate(turn)
        total = sum(loss.weight * terms[name] for name, loss in losses.items())
        if not math.isfinite(total):
            self._nonfinite(trainer.name, f"the loss term {first_nonfinite(terms)!r}")
            return
        self.process.sum_gradients(trainer.parameters)
        if self.scaler.is_enabled():
            self.scaler.unscale_(trainer.optimizer)
        if trainer.clip is not None:
            norm = gathered(nn.utils.clip_grad_norm_(trainer.parameters, trainer.clip))
            if not self.scaler.is_enabled() and not math.isfinite(norm.item()):
                self._nonfinite(trainer.name, "the gradient")
                return
            self.window.add({f"gradient_norm/{trainer.name}": norm})
        self.scaler.step(trainer.optimizer)
        self.scaler.update()
        if trainer.player.average is not None:
            trainer.update_average()
        self.window.add({f"total/{trainer.name}": total, **terms})

    def _differentiate(self, turn: Turn) -> tuple[Losses, dict[str, float]]:
        """Leave the gradients of the global batch's loss in the player's parameters; the last losses and the means."""
        if self.train.accumulate > 1:
            return self._accumulate(turn)
        losses = self._losses(turn)
        counts = counted(losses, self.process)
        self._backward(losses, counts)
        return losses, dict(zip(losses, means(self.process.sum(summed(losses)), counts), strict=True))

    def _accumulate(self, turn: Turn) -> tuple[Losses, dict[str, float]]:
        """The same over several micro-batches: each divided by the first ones' count, put right at the end."""
        first = count = 0.0
        losses, sums = Losses(), torch.zeros((), device=self.process.device)
        for _ in range(self.train.accumulate):
            losses = self._losses(turn)
            own = shared_count(losses)
            first = first or self._over_processes(own)
            count += own
            self._backward(losses, [first] * len(losses))
            sums = sums + summed(losses)
        count = self._over_processes(count)
        for parameter in self.players[turn.player].parameters:
            if parameter.grad is not None:
                parameter.grad.mul_((first or 1.0) / (count or 1.0))
        return losses, dict(zip(losses, means(self.process.sum(sums), [count] * len(losses)), strict=True))

    def _backward(self, losses: Losses, counts: Sequence[Count]) -> None:
        roots, seeds = gradients(losses, counts)
        torch.autograd.backward(roots, list(self.scaler.scale(seeds)))

    def _over_processes(self, count: float) -> float:
        return float(self.process.sum(torch.tensor(count, dtype=torch.float64, device=self.process.device)))

    def _losses(self, turn: Turn) -> Losses:
        if turn.fresh or self.batch is None:
            self.batch = self.loader.next()
        with self.process.autocast(self.train.precision):
            losses = turn.losses(self.batch, self.rng)
        if losses.notes:
            self.window.add(losses.notes)
        if self.looks and turn.player == self.stage.keeps and self.step % max(1, self.steps // self.looks) == 0:
            self.window.add(cosines(losses, self.players[turn.player].player.module.parameters(), self.process))
        return losses

    def _turn_of(self, name: str) -> Trainer:
        if name not in self.players:
            known = ", ".join(self.players)
            raise StillhouseError(f"{type(self.method).__name__} gives a turn to player {name!r}; its players: {known}")
        if len(self.players) > 1:
            for other, trainer in self.players.items():
                trainer.gradients_on(other == name)
        return self.players[name]

    def _nonfinite(self, player: str, what: str) -> None:
        self.skipped += 1
        if self.skipped > self.train.skip_nonfinite:
            raise nonfinite_error(self.stage.name, self.step, player, what, self._last_good())
        self.events.say(
            f"stage {self.stage.name!r}, step {self.step}: {what} of player {player!r} is not finite; "
            f"update skipped ({self.skipped} of {self.train.skip_nonfinite} allowed)"
        )

    def _last_good(self) -> str:
        found = self.checkpoints.found()
        return f"The last good checkpoint is {found[-1].path}." if found else "No checkpoint was written yet."

    # --- telling ---------------------------------------------------------------------------

    def _tell(self) -> None:
        now = time.perf_counter()
        if self.step % self.train.log_every == 0 or self.step == self.steps:
            self._log(now)
        if now - self._shown_at >= DISPLAY_SECONDS or self.step == self.steps:
            self._shown_at = now
            shown = {n: v for n, v in self.window.means().items() if n.startswith("total/")}
            self.events.send(Progress(self.stage.name, self.step, self.steps, shown, self._speed(now)))

    def _speed(self, now: float) -> float:
        since, position = self._since
        drawn = (self.loader.position - position) * self.loader.batch_size * self.process.world
        if drawn:  # nothing yet since the last line: the speed is still the one told there
            self._told_speed = drawn / max(now - since, 1e-9)
        return self._told_speed

    def _log(self, now: float) -> None:
        line = {
            "stage": self.stage.name,
            "step": self.step,
            "epoch": round(self.loader.epoch, 4),
            "time": round(self.ledger.seconds, 4),
            "lr": {name: trainer.lr for name, trainer in self.players.items()},
            "losses": self.window.means(),
            "examples_per_second": round(self._speed(now), 2),
        }
        self.folder.append_metrics(line)
        self.events.send(Logged(self.stage.name, self.step, line))
        self.window.clear()
        self._since = (now, self.loader.position)

    # --- saving ----------------------------------------------------------------------------

    def _save_is_due(self) -> bool:
        every = self.train.checkpoint_steps
        if self.step == self.steps:
            return False
        if every is not None and self.step % every == 0:
            return True
        return every is None and time.perf_counter() - self._saved_at >= self.train.checkpoint_seconds

    def save(self) -> None:
        """Write a checkpoint, after a look that the weights are finite."""
        for name, trainer in self.players.items():
            finite = all(bool(torch.isfinite(local(p)).all()) for p in trainer.parameters)
            if self.process.agree(not finite)[0]:
                raise RunFailed(
                    f"stage {self.stage.name!r}, step {self.step}: the weights of player {name!r} are not finite; "
                    f"they are not saved. {self._last_good()} Lower the learning rate or set train.clip"
                )
        if self._saved_step != self.step:
            state = gathered(self.state_dict(), keep=self.process.first)
            if self.process.first:
                path = self.checkpoints.save(self.stage.name, self.step, state)
                self.events.send(Saved(self.stage.name, self.step, path))
        self.process.wait()
        self._saved_at, self._saved_step = time.perf_counter(), self.step

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        return {
            "step": self.step,
            "position": self.loader.position,
            "skipped": self.skipped,
            "players": {name: trainer.state_dict() for name, trainer in self.players.items()},
            "method": self.method.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": self.process.gather({"method": self.rng.get_state(), "global": global_states()}),
            "window": [dict(self.window.sums), dict(self.window.counts)],
            "batch": self.batch if self._reuses_batches() else None,
            "ledger": self.ledger.state_dict(),
            "metrics_size": self.folder.metrics_size(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.loader.position, self.skipped = state["step"], state["position"], state["skipped"]
        for name, trainer in self.players.items():
            trainer.load_state_dict(state["players"][name])
        self.method.load_state_dict(state["method"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        random = state["random"]
        if len(random) != self.process.world:
            raise StillhouseError(
                f"this run was saved by {len(random)} processes and goes on with {self.process.world}: "
                "start it with as many as before"
            )
        self.rng.set_state(random[self.process.rank]["method"])
        restore_global_states(random[self.process.rank]["global"])
        self.window.sums, self.window.counts = state["window"]
        self.batch = state["batch"]
        self.ledger.load_state_dict(state["ledger"])
        self.folder.cut_metrics(state["metrics_size"])

    def _resume(self) -> None:
        found = self.checkpoints.latest(self.stage.name, self.events.say)
        if found is not None:
            self.load_state_dict(found[1])
            self._saved_step = self.step
        self._since = (time.perf_counter(), self.loader.position)

    def _reuses_batches(self) -> bool:
        return any(not turn.fresh for turn in self.method.schedule())

    # --- setting up ------------------------------------------------------------------------

    def _trainers(self) -> dict[str, Trainer]:
        players = self.method.players()
        unknown = set(self.train.players) - set(players)
        if unknown:
            raise StillhouseError(
                f"train.players names {', '.join(sorted(unknown))}; "
                f"the players of {type(self.method).__name__} are {', '.join(players)}"
            )
        for player in players.values():
            player.module.train()
            player.parts.train()
            if self.train.compile:
                player.module.compile()
        return {name: Trainer(name, player, self.train, self.process) for name, player in players.items()}

    def _length(self) -> int:
        if self.train.steps is not None:
            return self.train.steps
        assert self.train.epochs is not None
        drawn = sum(turn.fresh for turn in self.method.schedule()) * self.train.accumulate
        return max(1, round(self.train.epochs * self.loader.batches_per_epoch / max(drawn, 1)))


def modules_of(stage: Stage) -> dict[str, nn.Module]:
    """Every module among a method's roles, by role name: the players' and the frozen ones."""
    roles: dict[str, nn.Module] = {}
    for name, role in vars(stage.method).items():
        members = getattr(role, "members", None) or {"": role}  # a role may be several modules by name
        found = {f"{name}.{own}".rstrip("."): one for own, one in members.items() if isinstance(one, nn.Module)}
        roles |= found
    for name, player in stage.method.players().items():
        roles[name] = player.module
        if len(player.parts):
            roles[f"{name}.parts"] = player.parts
    return roles
