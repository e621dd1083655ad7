"""SSKD: turned images, and similarities of embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.methods.feature_kinds import SSKD as Kind
from stillhouse.methods.roles import Roles
from stillhouse.methods.sskd import SSKD, counted, origins, similarities, with_turned
from stillhouse.networks.kinds import ConvNet
from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe
from stillhouse.sources.kinds import Digits
from stillhouse.students.load import load_student
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts(task="classification", shape=(1, 8, 8), classes=10)
BATCH = Digits(shift=0, limit=40).build().train.fetch(torch.arange(6), None)


def model(width: int, seed: int) -> Model:
    torch.manual_seed(seed)
    return Model(ConvNet(width=width).build(FACTS), ImageView(Image())).eval()


def method(**words: Any) -> SSKD:
    built = Kind(**words).build(Roles(model(4, 1), Frozen(model(6, 2)), FACTS, BATCH))
    assert isinstance(built, SSKD)
    return built


def losses(built: SSKD) -> Any:
    return built.update_student(BATCH, torch.Generator())


def by_hand(built: SSKD) -> dict[str, torch.Tensor]:
    """Every image on its own and in float64; similarities one pair at a time."""
    out: dict[str, list[torch.Tensor]] = {"plain": [], "turned": [], "similarity": []}
    sides: list[dict[tuple[int, int], Any]] = []
    heads = (built.student.parts["head"], built.head.module)
    for network, head in zip((built.student.module, built.teacher), heads, strict=True):
        side = {}
        for quarters in range(4):
            for row, image in enumerate(BATCH["image"]):
                turned = torch.rot90(image, quarters, (1, 2)).unsqueeze(0)
                signals = network.signals({"image": turned}, ["logits", "features.pool"])
                side[quarters, row] = (signals["logits"][0].double(), head(signals["features.pool"])[0].double())
        sides.append(side)

    def kl(ours: torch.Tensor, theirs: torch.Tensor, temperature: float) -> torch.Tensor:
        p, q = (theirs / temperature).softmax(-1), (ours / temperature).softmax(-1)
        return temperature**2 * sum(a * (a / b).log() for a, b in zip(p, q, strict=True))

    for quarters in range(4):
        for row in range(6):
            name = "turned" if quarters else "plain"
            out[name].append(kl(sides[0][quarters, row][0], sides[1][quarters, row][0], 4.0))
            if quarters:
                cosines = [
                    torch.stack([nn.functional.cosine_similarity(s[quarters, row][1], s[0, n][1], 0) for n in range(6)])
                    for s in sides
                ]
                out["similarity"].append(kl(cosines[0], cosines[1], 0.5))
    return {name: torch.stack(values) for name, values in out.items()}


def test_the_losses_are_those_of_the_paper() -> None:
    built = method()
    found, expected = losses(built), by_hand(built)
    for name, weight in (("plain", 0.9), ("turned", 2.7), ("similarity", 10.0)):
        torch.testing.assert_close(
            found[name].values.double(), expected[name], rtol=1e-4, atol=2e-5
        )  # from fp32 logits
        assert found[name].weight == weight
    truth = nn.functional.cross_entropy(built.student.module.signals(BATCH)["logits"], BATCH["labels"])
    torch.testing.assert_close(found["labels"].values.mean(), truth)


def test_the_head_learns_which_image_a_turned_one_was() -> None:
    built = method()
    head = built.head.module
    embedded = head(built.teacher.signals(with_turned(BATCH), ["features.pool"])["features.pool"])
    similar = similarities(embedded)
    expected = -(similar.log_softmax(1)[torch.arange(18), origins(similar)])
    loss = built.update_head(BATCH, torch.Generator())["contrast"]
    torch.testing.assert_close(loss.values, expected)
    gradients = torch.autograd.grad(loss.values.sum(), list(head.parameters()))
    assert all(g.abs().sum() > 0 for g in gradients)


def test_no_gradient_of_the_student_s_losses_reaches_the_teacher_s_side() -> None:
    built = method()
    sum(loss.values.sum() for loss in losses(built).values()).backward()
    assert all(p.grad is None for p in [*built.head.module.parameters(), *built.teacher.parameters()])
    grads = [p.grad for p in built.student.parameters()]
    assert all(g is not None and g.abs().sum() > 0 for g in grads)


def test_right_answers_count_and_the_least_wrong_of_the_others() -> None:
    scores = torch.tensor([[9.0, 1, 0], [0, 5, 9], [3, 2, 1], [7, 8, 9]])
    truth = torch.tensor([0, 1, 2, 0])  # right; second; last; last
    assert counted(scores, truth, 0.0).tolist() == [1, 0, 0, 0]
    assert counted(scores, truth, 0.34).tolist() == [1, 1, 0, 0]
    assert counted(scores, truth, 1.0).tolist() == [1, 1, 1, 1]


def test_what_cannot_be_turned_or_projected_is_told() -> None:
    with pytest.raises(StillhouseError, match="projects vectors"):
        method(features="features.conv2")
    wide = BATCH | {"image": BATCH["image"][..., :6]}
    with pytest.raises(StillhouseError, match="not square"):
        Kind().build(Roles(model(4, 1), Frozen(model(6, 2)), FACTS, wide))


def test_a_student_is_taught_and_keeps_no_head(tmp_path: Any) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "sskd",
            "about": "test",
            "data": {"kind": "digits", "limit": 100},
            "teacher": {"network": {"kind": "convnet"}, "weights": {"kind": "trained", "steps": 60, "batch_size": 32}},
            "student": {"network": {"kind": "convnet", "width": 4}},
            "method": {"kind": "sskd"},
            "train": {"steps": 60, "batch_size": 32, "optimizer": {"kind": "adamw", "lr": 0.01}},
            "evaluate": ["agreement"],
            "control": False,
        }
    )
    run = distill(recipe, out=str(tmp_path / "run"), progress=False)
    assert run.summary["arms"]["student"]["agreement"] > 0.3
    assert load_student(run.folder).network.state_dict().keys() == ConvNet(width=4).build(FACTS).state_dict().keys()
