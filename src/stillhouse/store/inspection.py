"""Looking at a store without its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.store.layout import Layout, TopK, to_json
from stillhouse.store.shards import Store


def info(folder: str | Path) -> dict[str, Any]:
    """What a store holds, as plain data: whose signals, which, how many, and their bytes.

    Each signal's entry states its layout and `bytes_per_example`, and `bytes_per_token` for a signal
    of tokens: logits [T, V] or features [T, D].
    """
    store = Store.open(folder)
    return {
        "folder": str(folder),
        "address": store.address,
        "teacher": store.identity.teacher,
        "view": store.identity.view,
        "inputs": store.inputs,
        "signals": {name: to_json(layout) | _sizes(name, layout) for name, layout in store.layouts.items()},
        "records": len(store),
        "shards": len(store.shards),
        "sources": len(list((store.folder / "sources").glob("*.json"))),
        "bytes": sum(path.stat().st_size for path in store.files()),
    }


def _sizes(name: str, layout: Layout) -> dict[str, float]:
    """Bytes of one example of a signal, and of one token where it has tokens."""
    size = np.dtype(layout.columns(name)).itemsize
    of_tokens = len(layout.shape) == (1 if isinstance(layout, TopK) else 2)
    return {"bytes_per_example": size} | ({"bytes_per_token": size / layout.shape[0]} if of_tokens else {})


def verify(folder: str | Path) -> list[str]:
    """Every problem of a store, each naming its file; empty when all is as it was written."""
    return Store.problems(folder)
