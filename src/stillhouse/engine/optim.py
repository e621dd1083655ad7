"""Optimizers and learning-rate schedules of the players."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from stillhouse.engine.contracts import Player
from stillhouse.engine.process import Process
from stillhouse.engine.settings import OptimizerKind, PlayerSettings, Train
from stillhouse.engine.sharding import placed, shard


def build_optimizer(kind: OptimizerKind, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer a recipe names, in its fused form where every parameter allows it."""
    options = kind.model_dump(exclude={"kind"})
    fusable = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return kind.target()(parameters, fused=fusable or None, **options)


def learning_rate_factor(schedule: str, warmup: float, step: int, steps: int) -> float:
    """The share of the peak learning rate at a step.

    Rises linearly over the first `warmup * steps` steps; then constant, or a fall to zero at the
    last step: along a half cosine (Loshchilov & Hutter 2017, arXiv:1608.03983) or linearly.
    """
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / max(1.0, steps - rising)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if schedule == "linear" else 1.0


class Trainer:
    """One player with its optimizer, its schedule, its clipping and its average."""

    def __init__(self, name: str, player: Player, train: Train, process: Process) -> None:
        own = train.players.get(name, PlayerSettings())
        self.name, self.player = name, player
        decay = own.ema if own.ema is not None else train.ema
        if player.decay is None:
            player.decay = decay
        if player.decay is not None and player.average is None:
            player.average = frozen_copy(player.module)
        if process.sharded:
            for module in (player.module, *player.parts.values(), *([player.average] if player.average else [])):
                shard(module, process.device)
        self.parameters = [p for p in player.parameters() if p.requires_grad]
        self.schedule = own.schedule or train.schedule
        self.warmup = train.warmup if own.warmup is None else own.warmup
        self.clip = own.clip or train.clip
        self.optimizer = build_optimizer(own.optimizer or train.optimizer, self.parameters)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.lr = self.peaks[0]

    def set_learning_rate(self, step: int, steps: int) -> None:
        factor = learning_rate_factor(self.schedule, self.warmup, step, steps)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.lr = self.peaks[0] * factor

    def drop_gradients(self) -> None:
        """Free the gradients, without the profiler's mark that `optimizer.zero_grad` makes each time."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def update_average(self) -> None:
        """average <- decay * average + (1 - decay) * weights; buffers are copied."""
        player = self.player
        assert player.average is not None
        assert player.decay is not None
        averaged, current = list(player.average.parameters()), list(player.module.parameters())
        if averaged:
            torch._foreach_lerp_(averaged, current, 1 - player.decay)  # pyright: ignore[reportPrivateImportUsage]
        for target, source in zip(player.average.buffers(), player.module.buffers(), strict=True):
            target.copy_(source)

    def gradients_on(self, on: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(on)

    def state_dict(self) -> dict[str, object]:
        player = self.player
        return {
            "module": dict(player.module.state_dict()),
            "parts": dict(player.parts.state_dict()),
            "average": None if player.average is None else dict(player.average.state_dict()),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        held = {"module": self.player.module, "parts": self.player.parts, "average": self.player.average}
        for name, module in held.items():
            if module is not None:
                module.load_state_dict(placed(state[name], module.state_dict()))
        moments = {i: placed(of, self.parameters[i]) for i, of in state["optimizer"]["state"].items()}
        self.optimizer.load_state_dict(state["optimizer"] | {"state": moments})


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode that takes no gradients."""
    return copy.deepcopy(module).requires_grad_(False).eval()
