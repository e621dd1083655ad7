"""Tables of numbers: CSV and Parquet files, and scikit-learn's diabetes data."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Data, Facts
from stillhouse.engine.paths import resolve_file
from stillhouse.errors import StillhouseError, nearest
from stillhouse.sources.splits import by_class
from stillhouse.sources.table_kinds import Table

SEED = 0
BUNDLED = "sklearn:"
DIABETES = "CC BY 4.0 (Efron et al. 2004, as scikit-learn ships it)"


class Rows:
    """A `Source` over rows: `features` [B, D] float32 and `labels`: [B, 1] or [B, C] float32, or [B] classes."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels
        content = hashlib.sha256(features.numpy().tobytes() + labels.numpy().tobytes())
        self.fingerprint = content.hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        """The rows as they are; nothing is augmented."""
        return {"index": indices, "features": self.features[indices], "labels": self.labels[indices]}


def table(kind: Table) -> Data:
    """The table in `kind.path`, split once with a fixed seed; scales are those of the training rows, all of them.

    A number to be predicted counts in standard deviations of the training rows' from their mean.
    Raises StillhouseError for a file or column that is not there, and for cells that are no numbers.
    """
    names, columns, target = _read(kind)
    values, raw = np.stack(columns, 1), target
    labels = torch.zeros(len(raw), dtype=torch.int64)
    classes: tuple[str, ...] = ()
    if kind.task == "classification":
        found, places = np.unique(raw, return_inverse=True)
        labels, classes = torch.from_numpy(places.astype(np.int64)), tuple(map(str, found))
    test, validation, train = by_class(labels, [kind.test, kind.validation], seed=SEED)
    features = _standardised(values, train)
    answers = labels if classes else _standardised(raw[:, None], train)
    if kind.limit is not None:
        train = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(SEED))[: kind.limit]]
    test_rows, validation_rows, train_rows = (Rows(features[rows], answers[rows]) for rows in (test, validation, train))
    facts = Facts(
        task=kind.task,
        shape=(len(names),),
        classes=len(classes) or 1,
        names=classes,
        licence=DIABETES if kind.path.startswith(BUNDLED) else "unknown",
    )
    return Data(train=train_rows, validation=validation_rows, test=test_rows, facts=facts)


def _standardised(values: np.ndarray, train: Tensor) -> Tensor:
    """(value - mean) / deviation by column, both of the training rows; a column that is constant becomes zero."""
    mean, deviation = values[train.numpy()].mean(0), values[train.numpy()].std(0)
    return torch.from_numpy(((values - mean) / np.where(deviation > 0, deviation, 1.0)).astype(np.float32))


def _read(kind: Table) -> tuple[list[str], list[np.ndarray], np.ndarray]:
    """Names and values of the features, and the target."""
    if kind.path.startswith(BUNDLED):
        return _bundled(kind.path.removeprefix(BUNDLED))
    path = resolve_file(kind.path, "data.path")
    columns = _columns(path)
    target = kind.column or list(columns)[-1]
    if target not in columns:
        raise StillhouseError(f"{path} has no column {target!r}; {nearest(target, columns)}")
    for name, values in columns.items():
        wanted = name != target or kind.task == "regression"
        if wanted and not (np.issubdtype(values.dtype, np.number) and np.isfinite(values).all()):
            raise StillhouseError(f"{path}: column {name!r} holds what is no finite number; leave it out or encode it")
    features = {name: values.astype(np.float64) for name, values in columns.items() if name != target}
    return list(features), list(features.values()), columns[target]


def _columns(path: Path) -> dict[str, np.ndarray]:
    import pyarrow
    from pyarrow import csv, parquet

    try:
        read = parquet.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path)
    except pyarrow.ArrowInvalid as error:
        raise StillhouseError(f"{path} cannot be read as a table: {error}") from error
    return {name: read.column(name).to_numpy() for name in read.column_names}


def _bundled(name: str) -> tuple[list[str], list[np.ndarray], np.ndarray]:
    """The files that `sklearn.datasets.load_diabetes` reads; importing scikit-learn to read them takes two seconds."""
    if name != "diabetes":
        raise StillhouseError(f"no table {BUNDLED}{name} is known; there is {BUNDLED}diabetes")
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "datasets" / "data"
    values = np.loadtxt(folder / "diabetes_data_raw.csv.gz")  # [442, 10]
    names = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
    return names, list(values.T), np.loadtxt(folder / "diabetes_target.csv.gz")
