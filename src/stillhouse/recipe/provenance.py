"""Where a run's parts come from: fingerprints of data, teacher and code, and the environment."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch

import stillhouse
from stillhouse.engine.contracts import Data
from stillhouse.store.identity import weights_hash
from stillhouse.views.model import Model


def provenance(data: Data, teacher: Model | None) -> dict[str, Any]:
    """Fingerprints and licences, for provenance.json."""
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    record: dict[str, Any] = {
        "data": {
            "licence": data.facts.licence,
            **{name: {"examples": len(split), "sha256": split.fingerprint} for name, split in splits.items()},
        },
        "code": {"version": stillhouse.__version__, "sha256": code_fingerprint()},
    }
    if teacher is not None:
        record["teacher"] = {"sha256": weights_hash(teacher.network), "view": teacher.view.fingerprint}
    return record


@cache
def code_fingerprint() -> str:
    """SHA-256 over this package's Python files."""
    root = Path(stillhouse.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers of a run depend on beside the recipe."""
    return {
        "stillhouse": stillhouse.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
