"""Tables: what is read, how it is scaled and split, and what is told of files that do not fit."""

from __future__ import annotations

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from stillhouse.engine.paths import set_root
from stillhouse.errors import StillhouseError
from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe
from stillhouse.sources.table_kinds import Table


@pytest.fixture(autouse=True)
def root(tmp_path):
    set_root(tmp_path)
    yield tmp_path
    set_root(".")


def columns(count: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "width": rng.normal(5, 3, count),
        "price": rng.normal(100, 20, count),
        "height": rng.normal(0, 1, count),
        "colour": rng.choice(["red", "blue", "green"], count),
    }


def write(path, **found: np.ndarray) -> None:
    rows = pyarrow.table({name: pyarrow.array(values) for name, values in found.items()})
    if path.suffix == ".parquet":
        parquet.write_table(rows, path)
    else:
        path.write_text(
            "\n".join([",".join(found), *(",".join(map(str, row)) for row in zip(*found.values(), strict=True))])
        )


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_numbers_are_scaled_by_the_training_rows(root, name):
    found = columns()
    del found["colour"]
    write(root / name, **found)
    data = Table(path=name, column="price").build()
    assert (data.facts.task, data.facts.shape, data.facts.classes) == ("regression", (2,), 1)
    train = data.train.fetch(torch.arange(len(data.train)), None)
    torch.testing.assert_close(train["features"].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(train["labels"].std(0, correction=0), torch.ones(1), atol=1e-5, rtol=0)
    assert train["labels"].shape == (len(data.train), 1)
    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == [24, 6, 10]
    served = torch.cat([split.fetch(torch.arange(len(split)), None)["labels"] for split in splits]).squeeze(1)
    order = np.argsort(found["price"])
    assert np.corrcoef(np.sort(served.numpy()), found["price"][order])[0, 1] > 0.99999
    assert len(served.unique()) == 40  # every row in one split


def test_classes(root):
    write(root / "t.csv", **columns())
    data = Table(path="t.csv", task="classification").build()
    assert (data.facts.task, data.facts.shape, data.facts.classes) == ("classification", (3,), 3)
    assert data.facts.names == ("blue", "green", "red")
    assert data.train.fetch(torch.arange(4), None)["labels"].dtype == torch.int64


def test_the_bundled_table():
    data = Table().build()
    assert data.facts.shape == (10,)
    assert sum(len(split) for split in (data.train, data.validation, data.test)) == 442
    assert len(Table(limit=50).build().train) == 50
    assert Table(limit=50).build().test.fingerprint == data.test.fingerprint


def test_misfits_are_told(root):
    write(root / "t.csv", **columns())
    with pytest.raises(StillhouseError, match="no column 'prise'; did you mean 'price'"):
        Table(path="t.csv", column="prise").build()
    with pytest.raises(StillhouseError, match="'colour' holds"):
        Table(path="t.csv", column="price").build()
    with pytest.raises(StillhouseError, match="sklearn:diabetes"):
        Table(path="sklearn:iris").build()
    with pytest.raises(StillhouseError, match="does not exist"):
        Table(path="none.csv").build()
    (root / "bad.parquet").write_bytes(b"no table")
    with pytest.raises(StillhouseError, match="cannot be read as a table"):
        Table(path="bad.parquet").build()


def test_a_network_learns_a_table_from_a_teacher(tmp_path):
    """Regression by `match`; and cross-entropy, which is zero over one number, is refused."""
    mse = {"signal": "labels", "by": "mse"}
    train = {"steps": 150, "batch_size": 64, "optimizer": {"kind": "adamw", "lr": 1e-2}}
    words = {
        "name": "table",
        "data": {"kind": "table"},
        "teacher": {"network": {"kind": "mlp"}, "weights": {"kind": "stage", "stage": "linear"}},
        "student": {"network": {"kind": "mlp", "hidden": [16]}},
        "method": {"kind": "match", "terms": [{"signal": "logits", "by": "mse"}]},
        "train": train,
        "stages": [
            {
                "name": "linear",
                "student": {"network": {"kind": "mlp"}},
                "teacher": {"network": {"kind": "mlp"}},
                "method": {"kind": "match", "terms": [mse]},
            }
        ],
        "control": {"method": {"kind": "match", "terms": [mse]}},
        "evaluate": ["regression", "cost"],
    }
    arms = distill(Recipe.model_validate(words), out=tmp_path / "run", device="cpu", progress=False).summary["arms"]
    assert arms["teacher"]["r2"] > 0.35
    assert arms["student"]["rmse"] == pytest.approx(arms["teacher"]["rmse"], abs=0.05)
    words["control"] = True
    with pytest.raises(StillhouseError, match="cross_entropy"):
        distill(Recipe.model_validate(words), out=tmp_path / "other", device="cpu", progress=False)
