"""Methods on logits: hard augmentation, calibrated crops, subclasses of the embedding; and what measures them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Batch, Facts
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.evaluation.kinds import HeadConflict, ShiftedAccuracy, TeacherStddev
from stillhouse.methods.ferkd import FerKD, calibrated
from stillhouse.methods.hard import MOVES, Hard
from stillhouse.methods.lelp import LELP, directions
from stillhouse.methods.logit_kinds import LELP as LELPKind
from stillhouse.methods.logit_kinds import FerKD as FerKDKind
from stillhouse.methods.logit_kinds import Hard as HardKind
from stillhouse.methods.roles import Roles
from stillhouse.networks.kinds import MLP, ConvNet, Subclassed
from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe
from stillhouse.sources.kinds import Digits
from stillhouse.sources.spatial import cropped, moved
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts(task="classification", shape=(1, 8, 8), classes=10)
DATA = Digits(shift=0, limit=40).build()
ZERO = torch.zeros(1)


def model(kind: Any, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model(kind.build(FACTS), ImageView(Image()))


def roles(student: Model, teacher: Any, data: Any = DATA) -> Roles:
    return Roles(student, teacher, FACTS, data.train.fetch(torch.arange(4), None), None, data.train)


def batch(count: int = 16) -> Batch:
    return DATA.train.fetch(torch.arange(count), None)


def by_hand(image: Tensor, down: int, right: int) -> Tensor:
    """Whole pixels; zeros move in."""
    padded = nn.functional.pad(image, (2, 2, 2, 2))
    return padded[..., 2 - down : 10 - down, 2 - right : 10 - right]


def test_moves_of_whole_pixels_and_quarter_turns() -> None:
    image = batch(1)["image"]
    torch.testing.assert_close(moved(image, ZERO + 1 / 8, ZERO - 2 / 8, ZERO, ZERO), by_hand(image, -2, 1))
    torch.testing.assert_close(moved(image, ZERO, ZERO, ZERO + math.pi / 2, ZERO), image.rot90(1, (2, 3)))
    turned = moved(image, ZERO + 1 / 8, ZERO, ZERO + math.pi / 2, ZERO)
    torch.testing.assert_close(turned, by_hand(image.rot90(1, (2, 3)), 0, 1))  # turned, and then moved


def test_zoom_and_crops_of_a_ramp() -> None:
    ramp = torch.linspace(-7 / 8, 7 / 8, 8).expand(1, 1, 8, 8)  # the pixels' own x
    larger = moved(ramp, ZERO, ZERO, ZERO, ZERO + math.log(2.0))
    torch.testing.assert_close(larger, ramp / 2)
    crop = cropped(ramp, torch.tensor([[0.5, 0.25, 0.0]]))
    torch.testing.assert_close(crop, ramp / 2 + 0.25)


def test_the_augmenter_raises_disagreement_and_the_student_lowers_it() -> None:
    student, teacher = model(MLP(hidden=[16])), Frozen(model(ConvNet(width=4), seed=1))
    method = HardKind(shift=0.25, keep=0.0, rotation=20, zoom=1.2).build(roles(student, teacher))
    assert isinstance(method, Hard)

    def disagreement() -> float:
        z = torch.randn(16, MOVES, generator=torch.Generator().manual_seed(5))
        seen = batch() | {"image": method.augmenter(batch()["image"], z)}
        with torch.no_grad():
            return method.divergence(student.signals(seen)["logits"], teacher.signals(seen)["logits"]).mean().item()

    for turn, sign in zip(method.schedule(), (1, -1), strict=True):
        player, before = method.players()[turn.player], disagreement()
        optimizer = torch.optim.Adam(player.parameters(), lr=0.01)
        for step in range(20):
            losses = turn.losses(batch(), torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            torch.stack([loss.values.mean() for loss in losses.values()]).sum().backward()
            optimizer.step()
        assert sign * (disagreement() / before - 1) > 0.05
    assert all(p.grad is None for p in teacher.parameters())


def test_an_image_in_its_place_costs_the_augmenter_nothing() -> None:
    method = HardKind(shift=0.0, keep=3.0).build(roles(model(MLP()), Frozen(model(MLP(), seed=1))))
    losses = method.update_augmenter(batch(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(losses["kept"].values, torch.zeros(16), rtol=0, atol=1e-6)
    student, teacher = (m.signals(batch())["logits"].log_softmax(-1) for m in (method.student.module, method.teacher))
    expected = -(teacher.exp() * (teacher - student)).sum(-1)
    torch.testing.assert_close(losses["agreement"].values, expected)


class Counting(Frozen):
    asked = 0

    def signals(self, batch: Batch, wants: Any = ("logits",)) -> Any:
        self.asked += len(batch["image"])
        return super().signals(batch, wants)


def test_crops_are_scored_once() -> None:
    teacher = Counting(model(MLP(), seed=1))
    method = FerKDKind(crops=3, discard_below=0, trust_above=0).build(roles(model(MLP()), teacher))
    assert isinstance(method, FerKD)
    assert teacher.asked == 3 * 40
    for turn in method.schedule():
        loss = turn.losses(batch(), torch.Generator().manual_seed(0))["ferkd"]
    assert teacher.asked == 3 * 40
    assert loss.where is not None
    assert loss.where.all()
    crop = batch(40) | {"image": cropped(batch(40)["image"], method.boxes[:, 1])}
    torch.testing.assert_close(method.labels[:, 1], teacher.signals(crop)["logits"].softmax(-1))


def test_labels_are_calibrated_by_confidence() -> None:
    p = torch.tensor([[[0.8, 0.15, 0.05], [0.5, 0.3, 0.2], [0.34, 0.33, 0.33]]])  # sure, context, hard negative
    labels, kept = calibrated(p, torch.tensor([1]), FerKDKind(discard_below=0.4, trust_above=0.6, smoothing=0.3))
    assert kept.tolist() == [[True, True, False]]
    torch.testing.assert_close(labels[0, 0], p[0, 0])
    torch.testing.assert_close(labels[0, 1], torch.tensor([0.1, 0.8, 0.1]))


def test_left_out_crops_count_nowhere() -> None:
    teacher = Frozen(model(MLP(), seed=1))
    method = FerKDKind(discard_below=1.0, trust_above=1.0).build(roles(model(MLP()), teacher))
    loss = method.update_student(batch(), torch.Generator().manual_seed(0))["ferkd"]
    assert not loss.where.any()


def test_ferkd_refuses_images_that_augment_themselves() -> None:
    with pytest.raises(StillhouseError, match=r"data\.shift=0"):
        FerKDKind().build(roles(model(MLP()), Frozen(model(MLP())), Digits(limit=40).build()))


def test_directions_have_variance_one_and_nothing_of_the_head() -> None:
    torch.manual_seed(0)
    h, labels, weights = torch.randn(60, 9) * torch.arange(1, 10), torch.arange(60) % 2, torch.randn(2, 9)
    means, found = directions(h, labels, weights, 2, 3)
    for c in range(2):
        own = h[labels == c]
        torch.testing.assert_close(means[c], own.mean(0))
        torch.testing.assert_close(weights @ found[c].T, torch.zeros(2, 3), atol=1e-5, rtol=0)
        torch.testing.assert_close(((own - means[c]) @ found[c].T).std(0), torch.ones(3))


def lelp(**options: Any) -> LELP:
    student = model(Subclassed(of=MLP(hidden=[8]), subclasses=3))
    method = LELPKind(**options).build(roles(student, Frozen(model(ConvNet(width=4), seed=1))))
    assert isinstance(method, LELP)
    return method


def test_subclass_targets_add_up_to_the_teachers_answer() -> None:
    method = lelp(sharpness=2.0)
    signals = method.teacher.signals(batch(), ["logits", "features.pool"])
    target = method.targets(signals).exp()  # [B, 10 * 3]
    torch.testing.assert_close(target.view(16, 10, 3).sum(-1), signals["logits"].softmax(-1))
    assert target.view(16, 10, 3).std(-1).max() > 0.01
    losses = method.update_student(batch(), torch.Generator())
    assert (losses["subclasses"].weight, losses["labels"].weight) == (0.9, 0.1)


def test_a_class_is_its_subclasses_together() -> None:
    student = model(Subclassed(of=MLP(hidden=[8]), subclasses=3))
    signals = student.signals(batch(), ["logits", "subclass_logits"])
    fine = signals["subclass_logits"].softmax(-1).view(16, 10, 3)
    torch.testing.assert_close(signals["logits"].softmax(-1), fine.sum(-1))


def test_what_lelp_cannot_look_into_is_told() -> None:
    with pytest.raises(StillhouseError, match=r"has no linear layer 'top'.* it has linear"):
        lelp(head="top")
    with pytest.raises(StillhouseError, match="subclassed"):
        LELPKind().build(roles(model(MLP()), Frozen(model(MLP()))))
    with pytest.raises(StillhouseError, match="one live network"):
        LELPKind().build(roles(model(MLP()), None))


def context(**arms: Model) -> Context:
    return Context(DATA, DATA.test, {name: Arm(name, arm) for name, arm in arms.items()}, 0, torch.device("cpu"))


def test_shifted_accuracy_is_the_mean_over_all_moves() -> None:
    student = model(MLP())
    found = ShiftedAccuracy(pixels=1).build(Arm("student", student), context(student=student))
    rows = DATA.test.fetch(torch.arange(len(DATA.test)), None)
    right = [
        (student.signals(rows | {"image": by_hand(rows["image"], down, across)})["logits"].argmax(-1) == rows["labels"])
        for down in (-1, 0, 1)
        for across in (-1, 0, 1)
    ]
    assert found.metrics["shifted_accuracy"] == pytest.approx(torch.stack(right).double().mean().item())


def test_a_teachers_mean_answer_varies_with_its_images() -> None:
    teacher = model(MLP())
    at = context(teacher=Frozen(teacher), student=teacher)
    few, many = (
        TeacherStddev(data={"student": Digits()}, draws=50, examples=n).build(at.arms["student"], at).metrics
        for n in (4, 400)
    )
    assert few["teacher_stddev"] == pytest.approx(10 * many["teacher_stddev"], rel=0.3)  # one over the root of n
    assert not TeacherStddev(data={"student": Digits()}).build(at.arms["teacher"], at).metrics
    with pytest.raises(StillhouseError, match="no arm"):
        TeacherStddev(data={"other": Digits()}).build(at.arms["student"], at)


@pytest.mark.parametrize(("terms", "sign"), [(["mse", "mse"], 1), (["kl", {"by": "kl", "temperature": 3.0}], 0)])
def test_gradients_of_two_terms_are_compared(terms: list[Any], sign: int) -> None:
    student, teacher = model(ConvNet(width=4)), Frozen(model(ConvNet(width=4), seed=1))
    at = context(teacher=teacher, student=student)
    found = HeadConflict.model_validate({"terms": terms}).build(at.arms["student"], at).metrics
    if sign:
        assert found == pytest.approx({"head_cosine": 1.0, "backbone_cosine": 1.0})
        return
    student.eval()
    rows = batch(40)
    theirs, sides = teacher.signals(rows)["logits"], []
    for temperature in (1.0, 3.0):
        log_q = (student.signals(rows)["logits"] / temperature).log_softmax(-1)
        p = (theirs / temperature).softmax(-1)
        loss = -(p * log_q).sum()
        sides.append(torch.autograd.grad(loss, list(student.network.get_submodule("linear").parameters())))
    ours, other = (torch.cat([g.flatten() for g in side]) for side in sides)
    assert found["head_cosine"] == pytest.approx((ours @ other / ours.norm() / other.norm()).item(), abs=1e-5)
    with pytest.raises(StillhouseError, match="does not name one part"):
        HeadConflict.model_validate({"terms": terms, "head": "top"}).build(at.arms["student"], at)


@pytest.mark.parametrize(
    ("method", "network"),
    [
        ({"kind": "hard", "shift": 0.2}, {"kind": "mlp"}),
        ({"kind": "ferkd", "crops": 2}, {"kind": "mlp"}),
        ({"kind": "lelp"}, {"kind": "subclassed", "of": {"kind": "mlp"}, "subclasses": 2}),
    ],
)
def test_in_a_run(method: dict[str, Any], network: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "small",
            "data": {"kind": "digits", "shift": 0, "limit": 60},
            "teacher": {"network": {"kind": "convnet", "width": 4}, "weights": {"kind": "trained", "steps": 5}},
            "student": {"network": network},
            "method": method,
            "train": {"steps": 3, "batch_size": 16},
            "evaluate": ["accuracy"],
        }
    )
    run = distill(recipe, out=tmp_path / "run", device="cpu", progress=False)
    assert set(run.summary["arms"]) == {"teacher", "student", "control"}
