"""The order in which a source is read, and the position in it."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Source
from stillhouse.engine.seeds import derive
from stillhouse.errors import StillhouseError


class Loader:
    """Batches of a source, shuffled anew each epoch.

    The order and the augmentation depend only on the seed and on `position`, the number of
    global batches drawn: to go on after a stop, set `position`. Each of `world` processes gets
    its own slice of the global batch of `world * batch_size` examples. What does not fill a
    batch at the end of an epoch is left for the next one's shuffle.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(source) == 0:
            raise StillhouseError("the source is empty: there is nothing to train on")
        self.source, self.seed, self.rank, self.world = source, seed, rank, world
        self.device = torch.device(device)
        self.batch_size = min(batch_size, max(1, len(source) // world))
        self.position = 0
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)
        self._rng = torch.Generator()

    @property
    def batches_per_epoch(self) -> int:
        return max(1, len(self.source) // (self.batch_size * self.world))

    @property
    def epoch(self) -> float:
        """Passes over the source so far."""
        return self.position / self.batches_per_epoch

    def next(self) -> Batch:
        """The next batch of this process, on the device."""
        batch = self.source.fetch(self._indices(), self._augmentation())
        self.position += 1
        if self.device.type != "cpu":
            batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        return batch

    def _indices(self) -> Tensor:
        epoch, turn = divmod(self.position, self.batches_per_epoch)
        if epoch != self._epoch:
            order = torch.Generator().manual_seed(derive(self.seed, "order", epoch))
            self._epoch, self._order = epoch, torch.randperm(len(self.source), generator=order)
        start = (turn * self.world + self.rank) * self.batch_size
        return self._order[start : start + self.batch_size]

    def _augmentation(self) -> torch.Generator:
        return self._rng.manual_seed((self.seed * 1_000_003 + self.position * self.world + self.rank) % 2**63)
