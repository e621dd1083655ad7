"""A teacher whose signals lie in a store."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from stillhouse.engine.contracts import Batch, Signals, Source
from stillhouse.errors import StillhouseError
from stillhouse.store.identity import identity_of
from stillhouse.store.shards import Store
from stillhouse.teachers.frozen import Teacher

COMPARED, EVERY = 32, 8
"""Inputs that are hashed and compared at a time, in each eighth batch."""


class StoredTeacher(nn.Module):
    """Serves a source's batches from a store, in place of the teacher the store was built from.

    Inputs are compared, by their hashes, with those the store was built on, all of the first batch
    and some of each eighth later one, in turn: augmented images, edited texts and rollouts are an error
    and not silently another input's target. A live teacher answers what the store lacks: in the
    store's own layout beside stored answers, so that the targets of a batch are alike, and as it is
    where nothing of a batch is stored (rollouts).

    With `compare` off, `live` is not held against the teacher the store was built from: in a rehearsal,
    its weights are not trained yet.

    Raises StillhouseError when the store is another teacher's than `live`, holds none of the
    source's inputs, or lacks some and there is no live teacher; and on a batch as told above.
    """

    def __init__(self, store: Store, source: Source, live: Teacher | None = None, *, compare: bool = True) -> None:
        super().__init__()
        require_servable(source, instead=", or leave the store out and ask the live teacher")
        self.store = store
        self.live = live
        self.served = 0
        """Examples answered from the store."""
        self.asked = 0
        """Examples answered at all."""
        self._batches = 0
        self._rows = store.rows(source)
        self._agree(source, compare)

    def _agree(self, source: Source, compare: bool) -> None:
        if self.live is not None and compare:
            differs = identity_of(self.live).differences(self.store.identity)
            if differs:
                raise StillhouseError(f"{self.store.folder} is not this teacher's store: {'; '.join(differs)} differs")
        covered = int((self._rows >= 0).sum())
        if covered == 0:
            raise StillhouseError(
                f"the source differs: {self.store.folder} holds none of its {len(self._rows):,} inputs "
                f"(source {source.fingerprint[:24]!r}); was the store built on other data, or on other fields?"
            )
        if covered < len(self._rows) and self.live is None:
            raise StillhouseError(
                f"{self.store.folder} holds {covered:,} of the source's {len(self._rows):,} inputs, and there is no "
                "live teacher for the rest: build the store to its end, or give the teacher's weights"
            )

    @property
    def fraction(self) -> float:
        """Share of the examples so far that came from the store."""
        return self.served / self.asked if self.asked else 0.0

    def signals(self, batch: Batch, wants: Iterable[str] = ("logits",)) -> Signals:
        """The wanted signals [B, ...], fp32, on the batch's device."""
        wants = list(wants)
        device = next(iter(batch.values())).device
        rows = self._rows_of(batch)
        self._compare(batch, rows)
        stored = rows >= 0
        served = int(stored.sum())
        self.asked += len(rows)
        self.served += served
        if served == len(rows):
            records = self.store.records(rows)
        elif self.live is not None and not served and set(wants) <= self.store.layouts.keys():
            return self.live.signals(batch, wants)
        else:
            records = np.empty(len(rows), dtype=self.store.record)
            records[stored] = self.store.records(rows[stored])
            records[~stored] = self.store.encode(self._live_signals(batch, ~stored))
        signals = self.store.decode(records, wants)
        return {name: value.to(device, non_blocking=True) for name, value in signals.items()}

    def _rows_of(self, batch: Batch) -> np.ndarray:
        """The record of each example of the batch [B], -1 where there is none."""
        if "index" not in batch:
            return np.full(len(next(iter(batch.values()))), -1, dtype=np.int64)
        index = batch["index"].cpu().numpy()
        try:
            return self._rows[index]
        except IndexError as error:
            raise StillhouseError(
                f"the batch has index {index.max()}, and the source {len(self._rows):,} examples"
            ) from error

    def _compare(self, batch: Batch, rows: np.ndarray) -> None:
        """Hash inputs of the batch: are they those that the records were made from?"""
        turn, late = divmod(self._batches, EVERY)
        self._batches += 1
        if late:
            return
        first = turn * COMPARED % len(rows)
        last = first + COMPARED if turn else len(rows)
        stored = rows[first:last] >= 0
        if not stored.any():
            return
        seen = self.store.keys_of({n: batch[n][first:last] for n in self.store.inputs if n in batch})[stored]
        kept = self.store.keys(rows[first:last][stored])
        if seen.tobytes() != kept.tobytes():
            changed = batch["index"][first:last].cpu()[torch.from_numpy(stored)][torch.from_numpy(seen != kept)]
            raise StillhouseError(
                f"{len(changed)} of {len(seen)} inputs are not those that {self.store.folder} was built on, "
                f"the first at index {int(changed[0])}: they were augmented, edited or generated; "
                "turn that off, or use the live teacher"
            )

    def _live_signals(self, batch: Batch, missing: np.ndarray) -> Signals:
        if self.live is None:
            raise StillhouseError(
                f"{int(missing.sum())} inputs of this batch have no place in {self.store.folder}, and there is no live "
                "teacher for them"
            )
        chosen = torch.from_numpy(missing).to(next(iter(batch.values())).device)
        with torch.no_grad():
            return self.live.signals({name: value[chosen] for name, value in batch.items()}, tuple(self.store.layouts))


def require_servable(source: Source, instead: str = "") -> None:
    """Raises StillhouseError for a source that changes its inputs from epoch to epoch; `instead`: what else helps.

    A store holds the teacher's answer to each input as it is. A student that learns that answer on
    an augmented input learns something no teacher said.
    """
    if getattr(source, "augments", False):
        changes = getattr(source, "plain_with", "")
        raise StillhouseError(
            "the data augments its training inputs, and a store holds the teacher's answers to plain ones: "
            f"turn augmentation off{f' with {changes}' if changes else ''}{instead}"
        )
