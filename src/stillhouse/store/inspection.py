"""Looking at a store without its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.store.layout import TopK, to_json
from stillhouse.store.shards import Store


def info(folder: str | Path) -> dict[str, Any]:
    """What a store holds, as plain data: whose signals, which, how many, and their bytes.

    `bytes_per_position` is by signal: of one token for signals [T, V], of one example otherwise.
    """
    store = Store.open(folder)
    sizes = {}
    for name, layout in store.layouts.items():
        of_record = np.dtype(layout.columns(name)).itemsize
        positions = int(np.prod(layout.shape if isinstance(layout, TopK) else layout.shape[:-1], dtype=np.int64))
        sizes[name] = of_record / max(positions, 1)
    return {
        "folder": str(folder),
        "address": store.address,
        "teacher": store.identity.teacher,
        "view": store.identity.view,
        "inputs": store.inputs,
        "signals": {name: to_json(layout) for name, layout in store.layouts.items()},
        "records": len(store),
        "shards": len(store.shards),
        "bytes": sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file()),
        "bytes_per_record": store.record.itemsize,
        "bytes_per_position": sizes,
        "sources": len(list((store.folder / "sources").glob("*.json"))),
    }


def verify(folder: str | Path) -> list[str]:
    """Every problem of a store, each naming its file; empty when all is as it was written."""
    return Store.problems(folder)
