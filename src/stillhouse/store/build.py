"""Filling a store from a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from stillhouse.engine.contracts import Batch, Source
from stillhouse.errors import StillhouseError
from stillhouse.store.identity import Teacher, Watched, identity_of
from stillhouse.store.layout import Dense, Layout, to_json
from stillhouse.store.shards import Store, batches

SHARD_RECORDS = 16_384
SHARD_BYTES = 64 << 20
"""A shard is closed at the first batch that reaches either."""


def build_store(
    folder: str | Path,
    teacher: Teacher,
    source: Source,
    *,
    signals: Mapping[str, Layout] | None = None,
    batch_size: int = 256,
    shard_records: int = SHARD_RECORDS,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Write a teacher's signals on every example of a source, or those that are still missing.

    Killed at any point and called again with the same arguments, it ends with the same bytes. A
    source that grew costs the teacher its new inputs only; another split of the data may go into
    the same folder.

    Args:
        signals: what to store and how, by name; by default the logits, dense, in fp32.
        batch_size: examples in one forward pass of the teacher.
        shard_records: most records in a shard (a shard may end earlier, at 64 MiB): what a kill can cost.
        device: where the teacher lies.
        on_progress: called with (examples done, examples in all) after each batch.

    Raises:
        StillhouseError: the folder holds the signals of another teacher or view, or other signals;
            the store is damaged; the teacher gives NaN or a signal of changing shape.
    """
    if not len(source):
        raise StillhouseError("the source is empty: there is nothing to store")
    store = _opened(Path(folder), teacher, source, signals or {"logits": Dense()}, device)
    shard_records = max(1, min(shard_records, SHARD_BYTES // store.record.itemsize))
    with store.writing():
        rows = _fill(store, teacher, _moved(source, batch_size, device), shard_records, len(source), on_progress)
        store.remember(source, rows)
    return store


def _fill(
    store: Store,
    teacher: Teacher,
    examples: Iterator[Batch],
    shard_records: int,
    total: int,
    on_progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """Append what is missing, a whole number of batches to a shard; the row of every example."""
    place = {key: row for row, key in enumerate(store.keys().tolist())}
    rows: list[int] = []
    held_keys: list[np.ndarray] = []
    held_records: list[np.ndarray] = []

    def close() -> None:
        if held_keys:
            store.append(np.concatenate(held_keys), np.concatenate(held_records))
            held_keys.clear()
            held_records.clear()

    for batch in examples:
        keys = store.keys_of(batch)
        new = []
        for position, key in enumerate(keys.tolist()):
            if key not in place:
                place[key] = len(place)
                new.append(position)
            rows.append(place[key])
        if new:
            chosen = torch.tensor(new, device=next(iter(batch.values())).device)
            with torch.no_grad():
                given = teacher.signals({name: value[chosen] for name, value in batch.items()}, tuple(store.layouts))
            held_keys.append(keys[new])
            held_records.append(store.encode(given))
        if sum(map(len, held_keys)) >= shard_records:
            close()
        if on_progress:
            on_progress(len(rows), total)
    close()
    return np.array(rows, dtype="<i8")


def _opened(
    folder: Path, teacher: Teacher, source: Source, signals: Mapping[str, Layout], device: torch.device | str
) -> Store:
    """The store in the folder if it is this teacher's and holds these signals; else a new one."""
    identity = identity_of(teacher)
    watched = Watched(next(_moved(source, 1, device)))
    with torch.no_grad():
        given = teacher.signals(watched, tuple(signals))
    layouts = {name: layout.fitted(given[name]) for name, layout in signals.items()}
    inputs = (watched.seen or set(watched)) - {"index"}
    if not (folder / "store.json").exists():
        return Store.create(folder, identity, layouts, inputs)
    store = Store.open(folder)
    differs = identity.differences(store.identity)
    if store.layouts != layouts:
        differs.append(f"what is stored ({_words(layouts)} here, {_words(store.layouts)} there)")
    if store.inputs != sorted(inputs):
        differs.append(f"what the teacher looks at ({sorted(inputs)} here, {store.inputs} there)")
    if differs:
        raise StillhouseError(
            f"{folder} was built otherwise: {'; '.join(differs)}. Choose another folder, or remove it"
        )
    return store


def _moved(source: Source, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
    for batch in batches(source, batch_size):
        yield {name: value.to(device) for name, value in batch.items()}


def _words(layouts: Mapping[str, Layout]) -> str:
    return ", ".join(f"{name} {to_json(layout)}" for name, layout in layouts.items())
