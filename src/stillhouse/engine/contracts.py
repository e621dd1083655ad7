"""The small contracts between the engine and everything above it.

A **source** yields batches. A **method** owns **players** and yields **turns**; a
turn names one player and a function from a batch to unreduced **losses**. The
engine does the rest: it owns optimizers, which parameters take gradients,
averages, precision, reduction, checkpoints and logging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
"""Tensors by field name, all with the batch as the first dimension.

Fields with a fixed meaning: `index` [B] the example's position in its source;
`image` [B, C, H, W] in [0, 1]; `visible` [B, K] and `hidden` [B, N] the patches of it that a
masked network looks at, and those it does not; `trade_off` [B] in [0, 1], 0 for fidelity and 1 for
realness of a restored image; `labels` [B] class indices, or [B, T] token ids with
-100 where nothing is to be predicted; `boxes` [B, M, 4] of objects with `labels` [B, M]; `input_ids`,
`attention_mask` [B, T].
"""

IGNORED = -100
"""The label of what is not to be predicted: a token, a pixel, an example whose class is withheld."""

Signals = dict[str, Tensor]
"""What a model yields on a batch, by name: `logits`, `features.<tap>`, `attention.<tap>`, ..."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One term, not reduced: `values` of any shape, summed and divided once by the engine.

    The term is `weight * sum(values * where) / sum(where)` over the whole global batch
    (all micro-batches, all processes); without `where`, every value counts.
    """

    values: Tensor
    weight: float = 1.0
    where: Tensor | None = None


class Losses(dict[str, Loss]):
    """The terms of one turn by name, and numbers worth logging that are not losses."""

    def __init__(self, *args: Any, **terms: Loss | Tensor) -> None:
        super().__init__(*args)
        self.notes: dict[str, Tensor | float] = {}
        for name, term in terms.items():
            self[name] = term if isinstance(term, Loss) else Loss(term)

    def note(self, name: str, value: Tensor | float) -> None:
        """Log a number beside the losses; it takes no part in the update."""
        self.notes[name] = value.detach() if isinstance(value, Tensor) else value


@dataclass(frozen=True, slots=True)
class Turn:
    """Update one player on the losses this function returns for a batch."""

    player: str
    losses: Callable[[Batch, torch.Generator], Losses]
    fresh: bool = True
    """Draw a new batch; False gives the batch of the turn before again."""


M = TypeVar("M", bound=nn.Module)


class Player(Generic[M]):
    """A set of parameters that one optimizer trains.

    `module` is what the player is; `parts` are the train-only modules that its terms need
    (projectors, extra heads), trained with it and gone at export; `average` is the
    exponential moving average of `module`, kept by the engine when `decay` is given.
    """

    def __init__(self, module: M, *, parts: Mapping[str, nn.Module] | None = None, decay: float | None = None):
        self.module = module
        self.parts = nn.ModuleDict(dict(parts or {}))
        self.decay = decay
        self.average: M | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter the optimizer may train: the module's and the parts', each once."""
        return list(dict.fromkeys([*self.module.parameters(), *self.parts.parameters()]))

    @property
    def final(self) -> M:
        """The weights to keep: the average where there is one."""
        return self.module if self.average is None else self.average


class Method:
    """An algorithm: who is updated when, on which losses.

    A subclass sets its roles as attributes in `__init__`: a `Player` for each trainable
    role, frozen modules for the rest, None for an optional role that is absent. The engine
    sets `step` (schedules done so far) and `progress` (its share of the stage, 0 to 1)
    before it asks for the schedule.
    """

    step: int = 0
    progress: float = 0.0

    def players(self) -> dict[str, Player]:
        """The trainable roles by name."""
        return {name: role for name, role in vars(self).items() if isinstance(role, Player)}

    def schedule(self) -> Iterable[Turn]:
        """The turns of one step, in order."""
        raise NotImplementedError(f"{type(self).__name__} declares no schedule")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the players: a replay buffer, a memory bank."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""

    def told(self) -> dict[str, float]:
        """Numbers about the whole stage for the ledger, such as the share of targets served from a store."""
        return {}


class Source(Protocol):
    """Examples by position. Deterministic for given indices and generator state.

    A source that changes its inputs when `fetch` is given a generator says so by an attribute
    `augments = True`: a store's answers to plain inputs do not fit it. Where it has `plain_with`, that names
    the changes to a recipe that turn this off.
    """

    fingerprint: str
    """A hash of the content: the same examples, the same fingerprint."""

    def __len__(self) -> int: ...

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        """The examples at these positions. With a generator, augmented; with None, as they are."""
        ...


@dataclass(frozen=True)
class Facts:
    """What networks and methods may need to know about the data."""

    task: str
    """"classification", "multi-label", "segmentation", "detection", "tagging", "regression", "restoration",
    "language", "masked-language" or "generation"."""
    shape: tuple[int, ...] = ()
    """Of one input: (channels, height, width), (tokens,), or (columns,) of a table."""
    classes: int = 0
    """Number of classes, of numbers to be predicted, or size of the vocabulary."""
    names: tuple[str, ...] = ()
    """Class names, where known."""
    tokenizer: Any = None
    licence: str = "unknown"


@dataclass(frozen=True)
class Data:
    """Three splits of one data set. Only `train` is trained on; only `test` is reported."""

    train: Source
    validation: Source
    test: Source
    facts: Facts


@dataclass
class Stage:
    """One training of one method: what the loop runs, checkpoints and hands over."""

    name: str
    method: Method
    source: Source
    settings: Any  # stillhouse.engine.settings.Train
    keeps: str = "student"
    """The player whose final weights the stage hands over."""
