"""The files of a store.

    store.json               whose signals, which, laid out how; written first
    shards/000000.records    fixed-size little-endian records, memory-mapped when read
    shards/000000.keys       the 16-byte key of each record's input
    shards/000000.json       number of records and both checksums: the shard exists once this file does
    sources/<key>.rows       for a source that was covered: which record answers each of its examples
    sources/<key>.json       its checksum, and the shards it speaks of

Every file is written under a temporary name, flushed to disk and renamed, data before the JSON
that vouches for it; a process killed at any point leaves whole shards and nothing else that counts.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Signals, Source
from stillhouse.engine.folder import make_folder, write_atomically
from stillhouse.errors import RunFailed, StillhouseError
from stillhouse.store.identity import KEY, Identity, input_keys
from stillhouse.store.layout import Layout, from_json, to_json

FORMAT = 1
MAPPED = 256
"""Shards a process keeps mapped at a time: each mapping holds a file descriptor."""


@dataclass(frozen=True)
class Shard:
    """One committed shard: its files and what they must hold."""

    path: Path
    """Without the suffix."""
    count: int
    records_sha256: str
    keys_sha256: str

    @property
    def records(self) -> Path:
        return self.path.with_suffix(".records")

    @property
    def keys(self) -> Path:
        return self.path.with_suffix(".keys")


class Store:
    """Signals on disk. Any number of processes may read; one at a time appends."""

    def __init__(self, folder: str | Path, identity: Identity, layouts: Mapping[str, Layout], inputs: Iterable[str]):
        self.folder = Path(folder)
        self.identity = identity
        self.layouts = dict(layouts)
        self.inputs = sorted(inputs)
        """Fields of a batch that the teacher read, by which inputs are told apart."""
        self.record = np.dtype([column for name, layout in self.layouts.items() for column in layout.columns(name)])
        self.shards: list[Shard] = []
        self._ends = np.zeros(0, dtype=np.int64)
        self._trusted: set[Shard] = set()
        self._map = lru_cache(maxsize=MAPPED)(self._open_map)
        self._read_keys = lru_cache(maxsize=None)(self._open_keys)

    # ---- opening

    @classmethod
    def create(
        cls, folder: str | Path, identity: Identity, layouts: Mapping[str, Layout], inputs: Iterable[str]
    ) -> Store:
        """A new, empty store. Raises StillhouseError where one is already."""
        store = cls(folder, identity, layouts, inputs)
        if (store.folder / "store.json").exists():
            raise StillhouseError(f"{folder} is a store already; open it, or choose another folder")
        for name in ("shards", "sources"):
            make_folder(store.folder / name)
        _commit(store.folder / "store.json", _json({**store._about(), "address": store.address}))
        return store

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """The store in a folder, as far as it was committed.

        Reads no signals: a shard of the wrong size is an error now, one of the right size with
        wrong bytes when it is first read. Raises StillhouseError naming the file.
        """
        store = cls._described(Path(folder))
        store._take_up([store._shard(manifest) for manifest in store._manifests()])
        return store

    @classmethod
    def _described(cls, folder: Path) -> Store:
        about = _load(folder / "store.json", f"{folder} is no store of teacher's signals")
        try:
            if about["format"] != FORMAT:
                raise StillhouseError(
                    f"{folder} has format {about['format']}, and this version reads {FORMAT}: build it anew"
                )
            layouts = {name: from_json(layout) for name, layout in about["signals"].items()}
            store = cls(folder, Identity(**about["identity"]), layouts, about["inputs"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StillhouseError(f"{folder / 'store.json'} is damaged ({error!r}): build the store anew") from error
        if about.get("address") != store.address:
            raise StillhouseError(f"{folder / 'store.json'} is damaged (its checksum differs): build the store anew")
        return store

    def _about(self) -> dict[str, Any]:
        signals = {name: to_json(layout) for name, layout in self.layouts.items()}
        return {"format": FORMAT, "identity": asdict(self.identity), "signals": signals, "inputs": self.inputs}

    @property
    def address(self) -> str:
        """SHA-256 of teacher, view and layout; with an input's key it names one record's content."""
        return hashlib.sha256(_json(self._about())).hexdigest()

    def _manifests(self) -> list[Path]:
        return sorted((self.folder / "shards").glob("*.json"))

    def _take_up(self, shards: list[Shard]) -> None:
        self.shards = shards
        self._ends = np.cumsum([shard.count for shard in shards], dtype=np.int64)

    def _shard(self, manifest: Path) -> Shard:
        told = _load(manifest, f"{manifest} cannot be read")
        cure = f"delete {manifest.with_suffix('.*')} and build again: only that shard is redone"
        try:
            shard = Shard(manifest.with_suffix(""), told["count"], told["records_sha256"], told["keys_sha256"])
            if told["store"] != self.address:
                raise StillhouseError(f"{manifest} belongs to another store; {cure}")
            sizes = {shard.records: shard.count * self.record.itemsize, shard.keys: shard.count * KEY.itemsize}
        except (KeyError, TypeError) as error:
            raise StillhouseError(f"{manifest} is damaged ({error!r}); {cure}") from error
        for path, size in sizes.items():
            there = path.stat().st_size if path.exists() else None
            if there != size:
                found = "is missing" if there is None else f"has {there:,} bytes"
                raise StillhouseError(f"{path} {found}, and its manifest says {size:,}; {cure}")
        return shard

    # ---- reading

    def __len__(self) -> int:
        """Records that are committed."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def gives(self) -> list[str]:
        """The signals that can be read."""
        return [signal for name, layout in self.layouts.items() for signal in layout.gives(name)]

    def read(self, rows: Tensor | np.ndarray | Sequence[int], wants: Iterable[str] = ("logits",)) -> Signals:
        """The signals [B, ...], fp32, of the records at rows [B]; on the CPU.

        Raises StillhouseError for a signal that is not stored, a row outside 0 .. len - 1, or a
        shard whose bytes are not those that were written.
        """
        return self.decode(self.records(np.asarray(rows, dtype=np.int64)), wants)

    def records(self, rows: np.ndarray) -> np.ndarray:
        """The raw records [B] at rows [B]."""
        return self._gather(rows, self._map, self.record)

    def keys(self, rows: np.ndarray | None = None) -> np.ndarray:
        """The keys of the inputs whose records lie at rows [B], or of all."""
        if rows is None:
            return np.concatenate([self._read_keys(shard) for shard in self.shards] or [np.empty(0, dtype=KEY)])
        return self._gather(rows, self._read_keys, KEY)

    def _gather(self, rows: np.ndarray, content: Callable[[Shard], np.ndarray], dtype: np.dtype) -> np.ndarray:
        """What the shards' contents hold at rows [B]."""
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise StillhouseError(
                f"rows {rows.min()} to {rows.max()} were asked of {self.folder}, which holds {len(self):,} records"
            )
        if len(self.shards) == 1:
            return content(self.shards[0])[rows]
        gathered = np.empty(len(rows), dtype=dtype)
        numbers = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(numbers):
            chosen, shard = numbers == number, self.shards[number]
            gathered[chosen] = content(shard)[rows[chosen] - (self._ends[number] - shard.count)]
        return gathered

    def _open_map(self, shard: Shard) -> np.ndarray:
        if shard not in self._trusted:
            _check(shard.records, shard.records_sha256)
            self._trusted.add(shard)
        return np.asarray(np.memmap(shard.records, dtype=self.record, mode="r", shape=(shard.count,)))

    def _open_keys(self, shard: Shard) -> np.ndarray:
        _check(shard.keys, shard.keys_sha256)
        return np.fromfile(shard.keys, dtype=KEY)

    def encode(self, signals: Mapping[str, Tensor]) -> np.ndarray:
        """Records [B] of the stored signals' values. Raises StillhouseError for a wrong shape or a NaN."""
        records = None
        for name, layout in self.layouts.items():
            signal = signals[name]
            if layout.fitted(signal) != layout:
                raise StillhouseError(
                    f"{name!r} has shape {list(signal.shape)}, and the store holds {to_json(layout)}: "
                    "records are of one size, so pad inputs to one length"
                )
            if bool(signal.isnan().any()):
                raise StillhouseError(f"the teacher gave NaN in {name!r}: look at its weights and its inputs")
            for column, values in layout.encode(name, signal).items():
                if records is None:
                    records = np.zeros(len(values), dtype=self.record)
                records[column] = values
        assert records is not None, "a store has at least one signal"
        return records

    def decode(self, records: np.ndarray, wants: Iterable[str]) -> Signals:
        """The wanted signals in records [B]."""
        wants = list(wants)
        unknown = [want for want in wants if want not in self.gives]
        if unknown:
            raise StillhouseError(
                f"{self.folder} holds {', '.join(self.gives)}, and {', '.join(unknown)} is wanted: "
                "build the store with that signal"
            )
        signals: Signals = {}
        for name, layout in self.layouts.items():
            if any(want in layout.gives(name) for want in wants):
                columns = {column: records[column] for column, _, _ in layout.columns(name)}
                signals |= layout.decode(name, columns, wants)
        return {want: signals[want] for want in wants}

    # ---- which record answers which example of a source

    def rows(self, source: Source, batch_size: int = 1024) -> np.ndarray:
        """The record of each example of a source [N], -1 where there is none.

        Known at once for a source the store was built for; for any other the inputs are read and
        looked up by key, so a source that grew, shrank or was reordered is served as far as it goes.
        """
        path = self._rows_path(source)
        if path.exists():
            told = _load(path, f"{path} cannot be read")
            if told.get("shards") == self._chain(told.get("of", -1)) and told.get("count") == len(source):
                _check(path.with_suffix(".rows"), told.get("rows_sha256", ""))
                return np.fromfile(path.with_suffix(".rows"), dtype="<i8")
        place = {key: row for row, key in enumerate(self.keys().tolist())}
        rows = [place.get(key, -1) for batch in batches(source, batch_size) for key in self.keys_of(batch).tolist()]
        return np.array(rows, dtype="<i8")

    def keys_of(self, batch: Batch) -> np.ndarray:
        """The keys [B] of a batch's inputs, as this store tells inputs."""
        return input_keys(batch, self.inputs)

    def _rows_path(self, source: Source) -> Path:
        name = hashlib.sha256(source.fingerprint.encode()).hexdigest()[:32]
        return self.folder / "sources" / f"{name}.json"

    def _chain(self, count: int) -> str:
        """A hash of the first `count` shards, to which row numbers refer."""
        if not 0 <= count <= len(self.shards):
            return "more shards than there are"
        told = [f"{shard.path.name}:{shard.records_sha256}:{shard.keys_sha256}" for shard in self.shards[:count]]
        return hashlib.sha256("|".join(told).encode()).hexdigest()

    # ---- writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store for appending, alone. Raises StillhouseError while another process does."""
        with open(self.folder / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StillhouseError(f"another process is building {self.folder}; wait for it") from error
            for leftover in [path for path in self.files() if path.suffix == ".tmp"]:
                leftover.unlink()
            self._take_up([self._shard(manifest) for manifest in self._manifests()])
            yield

    def append(self, keys: np.ndarray, records: np.ndarray) -> Shard:
        """Commit one shard of records [B] with their inputs' keys [B]. Hold `writing()` around it."""
        assert len(keys) == len(records) > 0
        number = int(self.shards[-1].path.name) + 1 if self.shards else 0
        path = self.folder / "shards" / f"{number:06d}"
        shard = Shard(path, len(records), _sha256(records.tobytes()), _sha256(keys.tobytes()))
        told = asdict(shard) | {"store": self.address}
        del told["path"]
        _commit(shard.records, records.tobytes())
        _commit(shard.keys, keys.tobytes())
        _commit(path.with_suffix(".json"), _json(told))
        self._take_up([*self.shards, shard])
        return shard

    def remember(self, source: Source, rows: np.ndarray) -> None:
        """Keep the rows [N] of a source that the store now covers."""
        path = self._rows_path(source)
        content = rows.astype("<i8").tobytes()
        told = {"count": len(rows), "of": len(self.shards), "shards": self._chain(len(self.shards))}
        told |= {"source": source.fingerprint, "rows_sha256": _sha256(content)}
        _commit(path.with_suffix(".rows"), content)
        _commit(path, _json(told))

    # ---- looking after it

    def files(self) -> list[Path]:
        """Every file of the store."""
        folders = (self.folder, self.folder / "shards", self.folder / "sources")
        return [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]

    @classmethod
    def problems(cls, folder: str | Path) -> list[str]:
        """Every problem of every file in a folder, each named; empty when all bytes are those that were written."""
        problems: list[str] = []
        try:
            store = cls._described(Path(folder))
        except StillhouseError as error:
            return [str(error)]
        for manifest in store._manifests():
            try:
                shard = store._shard(manifest)
                _check(shard.records, shard.records_sha256)
                _check(shard.keys, shard.keys_sha256)
            except StillhouseError as error:
                problems.append(str(error))
        for path in sorted((store.folder / "sources").glob("*.json")):
            try:
                _check(path.with_suffix(".rows"), str(_load(path, f"{path} cannot be read").get("rows_sha256")))
            except StillhouseError as error:
                problems.append(str(error))
        return problems


def batches(source: Source, size: int) -> Iterator[Batch]:
    """The examples of a source in order, as they are, without augmentation."""
    for start in range(0, len(source), size):
        yield source.fetch(torch.arange(start, min(start + size, len(source))), None)


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()


def _load(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StillhouseError(f"{otherwise}: there is no {path.name}") from error
    except (OSError, ValueError) as error:
        raise StillhouseError(f"{otherwise}: {path.name} is damaged ({error})") from error
    if not isinstance(data, dict):
        raise StillhouseError(f"{otherwise}: {path.name} is damaged")
    return data


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check(path: Path, told: str) -> None:
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise StillhouseError(f"{path} is missing; build again") from error
    if found != told:
        raise StillhouseError(
            f"{path} is damaged: its checksum is {found[:12]}, and {told[:12]} was written; "
            f"delete {path.with_suffix('.*')} and build again: only that is redone"
        )


def _commit(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    try:
        write_atomically(path, write)
    except RunFailed as error:
        raise RunFailed(
            f"could not write {path}: {error.__cause__}. What was committed before is whole: "
            "mend that and build again, and it goes on from there"
        ) from error
