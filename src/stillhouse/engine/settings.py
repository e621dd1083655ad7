"""How a stage is trained: the words of a recipe's `train` section. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from stillhouse.kinds import AnyKind, Kind, Strict

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class OptimizerKind(Kind):
    """A rule that turns gradients into steps."""

    family: ClassVar[str] = "optimizer"
    lr: Positive = 1e-3
    """Learning rate at the peak of the schedule."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class AdamW(OptimizerKind):
    """AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    builds = "torch.optim:AdamW"
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Positive = 1e-8


class Adam(OptimizerKind):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980)."""

    kind: Literal["adam"] = "adam"
    builds = "torch.optim:Adam"
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Positive = 1e-8


class SGD(OptimizerKind):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    builds = "torch.optim:SGD"
    lr: Positive = 0.1
    momentum: Fraction = 0.9
    nesterov: bool = False


class PlayerSettings(Strict):
    """What one player does otherwise than the stage at large; what is left out is the stage's."""

    optimizer: Annotated[OptimizerKind, AnyKind("optimizer")] | None = None
    schedule: Literal["constant", "cosine", "linear"] | None = None
    warmup: Fraction | None = None
    clip: Positive | None = None
    ema: Fraction | None = None


class Train(Strict):
    """How long, how much at a time, and by which rule a stage is trained."""

    epochs: Positive | None = None
    """Passes over the source; give this or `steps`."""
    steps: Annotated[int, Field(gt=0)] | None = None
    """Schedules of the method; give this or `epochs`."""
    batch_size: Annotated[int, Field(gt=0)] = 64
    """Examples in a micro-batch of one process."""
    accumulate: Annotated[int, Field(gt=0)] = 1
    """Micro-batches summed into one update."""
    optimizer: Annotated[OptimizerKind, AnyKind("optimizer")] = AdamW()
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """How the learning rate falls after warm-up."""
    warmup: Fraction = 0.0
    """Share of the stage over which the learning rate rises from zero."""
    clip: Positive | None = None
    """Largest norm of a player's gradient; None leaves it alone."""
    ema: Fraction | None = None
    """Decay of an average of the weights, kept and exported in their place."""
    players: dict[str, PlayerSettings] = {}
    """By player name, what differs for it."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast precision of the losses; weights stay fp32."""
    compile: bool = False
    """Compile the players' forward passes with torch.compile."""
    log_every: Annotated[int, Field(gt=0)] = 10
    """Steps whose losses are averaged into one line of metrics.jsonl."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Least time between two checkpoints."""
    checkpoint_steps: Annotated[int, Field(gt=0)] | None = None
    """Steps between two checkpoints; counted beside the time."""
    skip_nonfinite: Annotated[int, Field(ge=0)] = 0
    """How many updates with a loss that is not finite may be skipped before the run stops."""

    @model_validator(mode="after")
    def _one_length(self) -> Train:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of 'epochs' and 'steps'")
        return self
