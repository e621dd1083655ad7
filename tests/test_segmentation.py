"""A class for every pixel: digits put on a canvas, distilled between fully convolutional networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stillhouse.engine.contracts import Data, Facts
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.evaluation.segmentation import segmentation
from stillhouse.evaluation.segmentation_kinds import SegmentationScore
from stillhouse.objectives.divergences import forward_kl
from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.kinds import Digits, Tensors
from stillhouse.views.kinds import Segmentation
from stillhouse.views.model import Model

ADAM = {"kind": "adamw", "lr": 1e-2}


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A 0 or a 1 of the real digits somewhere on 12 x 12 pixels; ink is class 1 or 2, paper 0, the border no class."""
    source = Digits().build().train
    batch = source.fetch(torch.arange(len(source)), None)
    rows = (batch["labels"] < 2).nonzero().squeeze(1)
    rng = torch.Generator().manual_seed(seed)
    image, labels = torch.zeros(count, 1, 12, 12), torch.zeros(count, 12, 12, dtype=torch.long)
    for n in range(count):
        row = rows[int(torch.randint(len(rows), (), generator=rng))]
        top, left = torch.randint(5, (2,), generator=rng).tolist()
        image[n, :, top : top + 8, left : left + 8] = batch["image"][row]
        labels[n, top : top + 8, left : left + 8] = (batch["image"][row, 0] > 0.3) * (batch["labels"][row] + 1)
    labels[:, 0] = 255
    return image, labels


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "scenes.safetensors"
    train, test = scenes(120, 0), scenes(40, 1)
    save_file({"train_x": train[0], "train_y": train[1], "test_x": test[0], "test_y": test[1]}, path)
    return path


def recipe(file: Path, **changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "scenes",
            "data": {"kind": "tensors", "path": str(file), "names": ["paper", "zero", "one"]},
            "teacher": {
                "network": {"kind": "fcn", "width": 12, "layers": 4},
                "weights": {
                    "kind": "trained",
                    "steps": 60,
                    "batch_size": 27,
                    "optimizer": {"kind": "adamw", "lr": 1e-2},
                },
            },
            "student": {"network": {"kind": "fcn", "width": 4, "layers": 2}},
            "method": {
                "kind": "match",
                "terms": [
                    {"by": "kl"},
                    {"signal": "labels", "by": "cross_entropy"},
                    {"by": "attention_transfer", "signal": "features.blocks.1", "teacher_signal": "features.blocks.3"},
                ],
            },
            "train": {"steps": 40, "batch_size": 27, "optimizer": ADAM},
            "evaluate": ["segmentation", "cost"],
        }
        | changes
    )


def test_pixels_are_distilled(file: Path, tmp_path: Path) -> None:
    arms = distill(recipe(file), out=tmp_path / "run", progress=False).summary["arms"]
    assert arms["teacher"]["mean_iou"] > 0.6
    assert 0.3 < arms["student"]["mean_iou"] < 1
    assert arms["student"]["pixel_agreement"] > 0.8


def test_only_labelled_pixels_count_in_the_loss(file: Path) -> None:
    data = Tensors(path=str(file)).build()
    batch = data.train.fetch(torch.arange(3), None)
    view = Segmentation().build(data.facts)
    labels, where = view.targets(batch)
    assert where is not None
    assert not where[:, 0].any()
    assert where[:, 1:].all()
    logits = torch.randn(3, 3, 6, 6)
    signals = view.read(logits, batch)["logits"]
    assert signals.shape == (3, 12, 12, 3)
    assert forward_kl(signals, torch.randn(3, 12, 12, 3)).shape == labels.shape
    whole = torch.randn(3, 3, 12, 12)
    assert torch.equal(view.read(whole, batch)["logits"][1, 4, 7], whole[1, :, 4, 7])


def test_intersection_over_union_by_hand() -> None:
    labels = torch.tensor([[[0, 0, 1], [1, 1, -100]]])
    guesses = torch.tensor([[[0, 1, 1], [1, 2, 2]]])

    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(guesses, 3).movedim(-1, 1).float()

    source = ImageArray(torch.zeros(1, 1, 2, 3), labels, fingerprint="by hand")
    facts = Facts("segmentation", (1, 2, 3), classes=3)
    arm = Arm("student", Model(Fixed(), Segmentation().build(facts)))
    context = Context(Data(source, source, source, facts), source, {"student": arm}, 0, "cpu")
    found = segmentation(SegmentationScore(), arm, context).metrics
    assert found["mean_iou"] == pytest.approx((1 / 2 + 2 / 4 + 0 / 1) / 3)
    assert found["pixel_accuracy"] == pytest.approx(3 / 5)


def test_labels_of_another_size_are_refused(tmp_path: Path) -> None:
    image, labels = scenes(20, 0)
    arrays = {
        "train_x": image,
        "train_y": labels[:, :6].clone(),
        "test_x": image.clone(),
        "test_y": labels[:, :6].clone(),
    }
    save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(StillhouseError, match="one class a pixel"):
        Tensors(path=str(tmp_path / "a.safetensors")).build()
