"""Objects in boxes: losses against other computations, data, and detectors distilled on digits scattered over pages."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import IGNORED, Data, Facts
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.detection import detection
from stillhouse.evaluation.detection_kinds import DetectionScore
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.networks.task_kinds import GFL
from stillhouse.objectives import boxes as geometry
from stillhouse.objectives.detection import (
    assigned,
    dense_detection,
    edge_distillation,
    object_features,
    set_detection,
)
from stillhouse.recipe.check import check
from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe
from stillhouse.sources.detection_kinds import Coco, Scattered
from stillhouse.views.kinds import Detection
from stillhouse.views.model import Model

PAGES = {"kind": "scattered", "of": {"kind": "digits"}, "size": 32, "zoom": [1.0, 1.5], "objects": [1, 3]}


def grid(side: int) -> Tensor:
    """Places of a grid of side x side cells, [1, side^2, 4]."""
    middle = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    return torch.stack([x, y, *[torch.full_like(x, 1 / side)] * 2], -1).view(1, -1, 4)


def batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """What a dense detector of 3 classes and distances 0 to 4 answers on a grid of 4 x 4, and two images' objects."""
    rng = torch.Generator().manual_seed(seed)
    edges = torch.randn(2, 16, 4, 5, generator=rng)
    places = grid(4).expand(2, -1, -1)
    away = edges.softmax(-1) @ torch.arange(5.0) / 4
    answered = torch.cat([places[..., :2] - away[..., :2], places[..., :2] + away[..., 2:]], -1)
    made = {"logits": torch.randn(2, 16, 3, generator=rng), "edges": edges, "places": places, "boxes": answered}
    return {name: value.to(dtype) for name, value in made.items()}


def truth(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Two objects and one, the second of the first image within the first one's box."""
    labels = torch.tensor([[0, 2], [1, IGNORED]])
    boxes = torch.tensor([[[0.0, 0.0, 0.8, 0.9], [0.3, 0.3, 0.6, 0.6]], [[0.5, 0.1, 0.9, 0.4], [0.0, 0.0, 0.0, 0.0]]])
    return {"labels": labels, "boxes": boxes.to(dtype)}


def overlap(a: Any, b: Any) -> tuple[float, float]:
    """IoU and generalised IoU of two boxes, in plain Python."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0.0) * max(high, 0.0)
    either = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - both
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return both / either, both / either - (around - either) / around


def test_overlap_of_boxes_is_what_plain_arithmetic_says() -> None:
    rng = torch.Generator().manual_seed(3)
    corners = torch.rand(2, 50, 2, 2, generator=rng, dtype=torch.float64).sort(2).values  # low and high of x and y
    first, second = corners[0].flatten(1), corners[1].flatten(1)
    wanted = torch.tensor([overlap(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)])
    got = torch.stack([geometry.iou(first, second), geometry.generalised_iou(first, second)], 1)
    assert torch.allclose(got, wanted.double())
    assert (wanted[:, 0] == 0).any()
    assert (wanted[:, 1] < 0).any(), "boxes that do not touch are among them"
    assert torch.allclose(geometry.from_centre(torch.tensor([0.5, 0.4, 0.2, 0.6])), torch.tensor([0.4, 0.1, 0.6, 0.7]))
    assert torch.allclose(geometry.from_centre(geometry.to_centre(first)), first)


def test_suppression_keeps_the_best_of_each_heap() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.02, 0.0, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9], [0.0, 0.0, 0.5, 0.45]])
    scores = torch.tensor([0.5, 0.9, 0.1, 0.7])
    assert geometry.suppressed(boxes, scores, above=0.5).tolist() == [1, 2]
    assert geometry.suppressed(boxes, scores, above=0.95).tolist() == [1, 3, 2], "by 0.96, 0.9 and 0.87"


def test_a_place_finds_the_smallest_object_around_it() -> None:
    which = assigned(grid(4).expand(2, -1, -1), truth()["boxes"], truth()["labels"]).view(2, 4, 4)
    # The large box is centred at (0.4, 0.45), the small one at (0.45, 0.45) holds the places at 0.375 alone.
    assert which[0].tolist() == [[0, 0, 0, -1], [0, 1, 0, -1], [0, 0, 0, -1], [-1, -1, -1, -1]]
    assert which[1].tolist() == [[-1, -1, 0, 0], [-1, -1, 0, 0], [-1] * 4, [-1] * 4]


def test_an_object_smaller_than_a_cell_still_has_a_place() -> None:
    boxes, labels = torch.tensor([[[0.49, 0.49, 0.5, 0.5]]]), torch.tensor([[0]])
    assert (assigned(grid(4), boxes, labels) == 0).sum() == 1
    assert not (grid(4)[..., :2] > 0.49).logical_and(grid(4)[..., :2] < 0.5).all(-1).any(), "no place lies in it"


def by_hand(seen: dict[str, Tensor], objects: dict[str, Tensor], image: int) -> float:
    """Eq. 8 of Li et al. 2020 for one image, a place after the other, in plain Python."""
    which = assigned(seen["places"].float(), objects["boxes"].float(), objects["labels"])[image].tolist()
    found = located = 0.0
    for place, number in enumerate(which):
        true = objects["boxes"][image, number].tolist()
        iou, generalised = overlap(seen["boxes"][image, place].tolist(), true) if number >= 0 else (0.0, 0.0)
        for label, logit in enumerate(seen["logits"][image, place].tolist()):
            p = 1 / (1 + math.exp(-logit))
            y = iou if number >= 0 and label == int(objects["labels"][image, number]) else 0.0
            found += (p - y) ** 2 * -(y * math.log(p) + (1 - y) * math.log(1 - p))
        if number < 0:
            continue
        x, y, *unit = seen["places"][image, place].tolist()
        distances = [(x - true[0]) / unit[0], (y - true[1]) / unit[1], (true[2] - x) / unit[0], (true[3] - y) / unit[1]]
        focal = 0.0
        for edge, distance in zip(seen["edges"][image, place], distances, strict=True):
            log_p = edge.log_softmax(0).tolist()
            low = min(int(distance), len(log_p) - 2)
            focal -= (low + 1 - distance) * log_p[low] + (distance - low) * log_p[low + 1]
        located += 2 * (1 - generalised) + 0.25 * focal / 4
    return (found + located) / sum(number >= 0 for number in which)


def test_dense_detection_is_the_papers_sum() -> None:
    seen, objects = batch(dtype=torch.float64), truth(torch.float64)
    got = dense_detection(list(seen.values()), objects["labels"], boxes=objects["boxes"])
    assert got.tolist() == pytest.approx([by_hand(seen, objects, 0), by_hand(seen, objects, 1)], rel=1e-6)


def test_dense_detection_has_the_gradient_of_its_values_where_the_quality_is_held() -> None:
    seen, objects = batch(dtype=torch.float64), truth(torch.float64)
    logits, edges = seen["logits"].requires_grad_(), seen["edges"].requires_grad_()

    def loss(logits: Tensor, edges: Tensor) -> Tensor:
        return dense_detection(
            [logits, edges, seen["places"], seen["boxes"].detach()], objects["labels"], boxes=objects["boxes"]
        )

    assert torch.autograd.gradcheck(loss, (logits, edges), atol=1e-4)


def test_dense_detection_at_its_best_is_zero_but_for_the_edges() -> None:
    """Every place answers its object's very box and class: what is left is the entropy of the two nearest bins."""
    objects = truth()
    which = assigned(grid(4).expand(2, -1, -1), objects["boxes"], objects["labels"])
    logits = torch.full((2, 16, 3), -40.0)
    answered = torch.zeros(2, 16, 4)
    for image, place in (which >= 0).nonzero().tolist():
        number = int(which[image, place])
        logits[image, place, int(objects["labels"][image, number])] = 40.0
        answered[image, place] = objects["boxes"][image, number]
    seen = [logits, torch.zeros(2, 16, 4, 5), grid(4).expand(2, -1, -1), answered]
    got = dense_detection(seen, objects["labels"], boxes=objects["boxes"])
    assert torch.allclose(got, torch.full((2,), 0.25 * math.log(5)), atol=1e-5)


def test_edge_distillation_is_the_divergence_at_places_with_an_object() -> None:
    ours, theirs, objects = batch(1), batch(2), truth()
    got = edge_distillation(
        [ours["edges"], ours["places"]], [theirs["edges"], theirs["places"]], temperature=3.0, **objects
    )
    has = assigned(ours["places"], objects["boxes"], objects["labels"]) >= 0
    for image in range(2):
        p, q = ((side["edges"][image][has[image]].double() / 3).softmax(-1) for side in (theirs, ours))
        wanted = 9 * (p * (p.log() - q.log())).sum(-1).mean()
        assert got[image].item() == pytest.approx(wanted.item(), rel=1e-5)
    other = {name: value.clone() for name, value in theirs.items()}
    other["edges"][~has] += 7 * torch.randn(other["edges"][~has].shape)
    again = edge_distillation(
        [ours["edges"], ours["places"]], [other["edges"], other["places"]], temperature=3.0, **objects
    )
    assert torch.equal(got, again), "places without an object do not count"


def test_object_features_weigh_each_object_and_the_background_alike() -> None:
    """With flat attention: the mean difference of each object's cells, and half that of the cells of none."""
    objects = {
        "labels": torch.tensor([[0, 1]]),
        "boxes": torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.75, 0.75, 1.0, 1.0]]]),
    }
    teacher = torch.ones(1, 3, 4, 4)
    apart = torch.zeros(4, 4)
    apart[:2, :2], apart[3, 3], apart[0, 3] = 1.0, 2.0, 4.0  # in the large box, in the small one, in none
    got = object_features(teacher + apart, teacher, attention=0.0, **objects)
    assert got.item() == pytest.approx(3 * (1.0 + 4.0 + 0.5 * 16.0 / 11))
    same = object_features(teacher, teacher, **objects)
    assert same.item() == pytest.approx(0.0, abs=1e-5)


def test_object_features_follow_the_teachers_attention() -> None:
    rng = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 3, 4, 4, generator=rng).double(), torch.randn(2, 3, 4, 4, generator=rng).double()
    objects = truth(torch.float64)
    objects["boxes"] *= 0.7
    got = object_features(student, teacher, **objects)
    for image in range(2):
        t, s = teacher[image].numpy(), student[image].numpy()
        where, which = ([softly(np.abs(x).mean(0)), softly(np.abs(x).mean((1, 2)))] for x in (t, s))
        cells = np.zeros((4, 4))
        for label, (x0, y0, x1, y1) in zip(objects["labels"][image], objects["boxes"][image].tolist(), strict=True):
            if label >= 0:
                columns, rows = (slice(int(low * 4), math.ceil(high * 4)) for low, high in ((x0, x1), (y0, y1)))
                area = np.zeros((4, 4))
                area[rows, columns] = 1
                cells = np.maximum(cells, area / area.sum())
        outside = (cells == 0) / (cells == 0).sum()
        loss = (where[0] * which_of(where, t) * ((t - s) ** 2)).sum(0) * (cells + 0.5 * outside)
        wanted = loss.sum() + np.abs(where[0] - which[0]).sum() + np.abs(where[1] - which[1]).sum()
        assert got[image].item() == pytest.approx(wanted, rel=1e-5)


def softly(x: np.ndarray) -> np.ndarray:
    e = np.exp(x / 0.5)
    return e / e.sum() * x.size


def which_of(attentions: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    return np.broadcast_to(attentions[1][:, None, None], like.shape)


def test_set_detection_pairs_as_trying_every_pairing_would() -> None:
    rng = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 4, 4, generator=rng)
    answered = geometry.from_centre(torch.rand(2, 4, 4, generator=rng) * 0.4 + 0.2)
    objects = truth()
    got = set_detection([logits, answered], objects["labels"], boxes=objects["boxes"])
    for image in range(2):
        known = (objects["labels"][image] >= 0).nonzero().squeeze(1).tolist()
        names, places = objects["labels"][image].tolist(), objects["boxes"][image].tolist()

        def located(row: int, m: int, image: int = image, places: Any = places) -> float:
            own = answered[image, row].tolist()
            a, b = (
                np.array([(x[0] + x[2]) / 2, (x[1] + x[3]) / 2, x[2] - x[0], x[3] - x[1]]) for x in (own, places[m])
            )
            return 5 * np.abs(a - b).sum() + 2 * (1 - overlap(own, places[m])[1])

        def cost(rows: Any, image: int = image, names: Any = names, known: Any = known) -> float:
            p = logits[image].softmax(-1)
            return sum(located(r, m) - p[r, names[m]].item() for r, m in zip(rows, known, strict=True))

        best = min(itertools.permutations(range(4), len(known)), key=cost)
        classes = [3] * 4
        for row, m in zip(best, known, strict=True):
            classes[row] = names[m]
        of_class = torch.tensor([1.0, 1.0, 1.0, 0.1])
        named = functional.cross_entropy(logits[image], torch.tensor(classes), weight=of_class)
        wanted = named.item() + sum(located(r, m) for r, m in zip(best, known, strict=True)) / len(known)
        assert got[image].item() == pytest.approx(wanted, rel=1e-5)
    assert classes.count(3) == 3, "three answers of the second image have no object"


def test_losses_of_sets_and_grids_refuse_too_few_logits() -> None:
    objects = truth()
    with pytest.raises(StillhouseError, match="one more logit than classes"):
        set_detection([torch.zeros(2, 4, 3), torch.zeros(2, 4, 4)], objects["labels"], boxes=objects["boxes"])
    seen = batch() | {"logits": torch.zeros(2, 16, 2)}
    with pytest.raises(StillhouseError, match="one logit a class"):
        dense_detection(list(seen.values()), objects["labels"], boxes=objects["boxes"])


@pytest.fixture(scope="module")
def pages() -> Data:
    return Scattered.model_validate(PAGES | {"train": 40, "validation": 10, "test": 30}).build()


def test_pages_show_their_objects_where_the_boxes_say(pages: Data) -> None:
    quiet = Scattered.model_validate(PAGES | {"train": 40, "validation": 10, "test": 10, "noise": 0.0}).build()
    batch = quiet.train.fetch(torch.arange(40), None)
    assert pages.facts.task == "detection"
    counts = (batch["labels"] != IGNORED).sum(1)
    assert set(counts.tolist()) == {1, 2, 3}
    for image, labels, boxes in zip(batch["image"], batch["labels"], batch["boxes"], strict=True):
        covered = torch.zeros(32, 32, dtype=torch.bool)
        for left, top, right, bottom in (32 * boxes[labels != IGNORED]).round().int().tolist():
            area = image[0, top:bottom, left:right]
            assert 8 <= right - left <= 12
            assert area.max() > 0.5, "a digit is drawn"
            covered[top:bottom, left:right] = True
        assert not image[0][~covered].any(), "and nowhere else is anything"


def test_more_training_pages_leave_the_first_ones_and_the_test_as_they_were(pages: Data) -> None:
    more = Scattered.model_validate(PAGES | {"train": 60, "validation": 10, "test": 30}).build()
    assert more.test.fingerprint == pages.test.fingerprint
    assert more.train.fingerprint != pages.train.fingerprint
    first = torch.arange(40)
    assert torch.equal(more.train.fetch(first, None)["image"], pages.train.fetch(first, None)["image"])


def test_pages_too_small_for_an_image_say_so() -> None:
    with pytest.raises(StillhouseError, match=r"is 20 pixels, and a page has 16: set a larger data\.size"):
        Scattered.model_validate({"of": {"kind": "digits"}, "size": 16}).build()
    with pytest.raises(ValueError, match="the first is the smaller"):
        Scattered.model_validate({"of": {"kind": "digits"}, "zoom": [2.0, 1.0]})


def coco_folder(path: Path, annotations: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Six images of 40 x 20 pixels, the middle square from x = 10 to 30, a box of category 7 or 3 in each."""
    for number in range(6):
        pixels = np.zeros((20, 40, 3), np.uint8)
        pixels[5:15, 12:20] = 255
        Image.fromarray(pixels).save(path / f"{number}.png")
    told = {
        "images": [{"id": 10 + n, "file_name": f"{n}.png", "width": 40, "height": 20} for n in range(6)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": annotations
        or [{"image_id": 10 + n, "category_id": 3 if n % 2 else 7, "bbox": [12, 5, 8, 10]} for n in range(6)]
        + [
            {"image_id": 10, "category_id": 7, "bbox": [28, 0, 10, 4]},  # its middle lies outside of the square
            {"image_id": 11, "category_id": 7, "bbox": [5, 0, 15, 20]},  # cut off at the left
            {"image_id": 12, "category_id": 7, "bbox": [10, 0, 20, 20], "iscrowd": 1},
        ],
    }
    (path / "boxes.json").write_text(json.dumps(told))
    return {"images": str(path), "annotations": str(path / "boxes.json"), "size": 10}


def test_coco_boxes_are_in_shares_of_the_middle_square(tmp_path: Path) -> None:
    data = Coco.model_validate(coco_folder(tmp_path)).build()
    assert data.facts.names == ("dog", "cat"), "in the order of their numbers"
    assert [len(split) for split in (data.train, data.validation, data.test)] == [4, 1, 1]
    seen = {}
    for split in (data.train, data.validation, data.test):
        batch = split.fetch(torch.arange(len(split)), None)
        for row in range(len(split)):
            known = batch["labels"][row] != IGNORED
            seen[tuple(batch["labels"][row][known].tolist())] = batch["boxes"][row][known]
            assert batch["image"][row, :, 4, 3].min() > 0.9, "the box's middle is white"
    assert torch.allclose(seen[1,][0], torch.tensor([0.1, 0.25, 0.5, 0.75]))
    assert torch.allclose(seen[0, 1][1], torch.tensor([0.0, 0.0, 0.5, 1.0]))
    assert set(seen) == {(1,), (0,), (0, 1)}, "neither the crowd nor what lies outside"


def test_boxes_of_images_of_another_size_are_told(tmp_path: Path) -> None:
    told = coco_folder(tmp_path)
    Image.new("RGB", (20, 10)).save(tmp_path / "3.png")
    with pytest.raises(StillhouseError, match=r"3\.png is 20 x 10 pixels, and the annotations are of 40 x 20"):
        Coco.model_validate(told).build()


def test_mirrored_images_have_mirrored_boxes(tmp_path: Path) -> None:
    train = Coco.model_validate(coco_folder(tmp_path)).build().train
    rows = torch.zeros(40, dtype=torch.long)
    batch = train.fetch(rows, torch.Generator().manual_seed(0))
    left = batch["boxes"][:, 0, 0]
    assert set(left.mul(10).round().int().tolist()) == {1, 5}
    assert torch.equal(left < 0.3, batch["image"][:, 0, 4, 3] > 0.9), "the white is where the box is"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 99, "category_id": 7, "bbox": [0, 0, 1, 1]}, "annotations of image 99, and no such image"),
        ({"image_id": 10, "category_id": 5, "bbox": [0, 0, 1, 1]}, "not of COCO's format"),
        ({"image_id": 10, "category_id": 7}, "not of COCO's format"),
    ],
)
def test_annotations_that_do_not_fit_are_told(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(StillhouseError, match=said):
        Coco.model_validate(coco_folder(tmp_path, [change])).build()
    with pytest.raises(StillhouseError, match="cannot be read"):
        Coco.model_validate({"images": str(tmp_path), "annotations": str(tmp_path / "no.json")}).build()


class Knows(torch.nn.Module):
    """Answers what it was told, for the images of a split in order."""

    def __init__(self, logits: Tensor, boxes: Tensor) -> None:
        super().__init__()
        self.logits, self.boxes, self.asked = logits, boxes, 0

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        rows = slice(self.asked % len(self.logits), self.asked % len(self.logits) + len(image))
        self.asked += len(image)
        return {"logits": self.logits[rows], "boxes": self.boxes[rows]}


def scored(data: Data, answers: dict[str, tuple[Tensor, Tensor]]) -> dict[str, dict[str, float]]:
    view = Detection().build(data.facts)
    arms = {name: Arm(name, Model(Knows(*told), view)) for name, told in answers.items()}
    context = Context(data, data.test, arms, seed=0, device="cpu", batch_size=7)
    return {name: detection(DetectionScore(), arm, context).metrics for name, arm in arms.items()}


def test_average_precision_of_answers_that_are_known(pages: Data) -> None:
    batch = pages.test.fetch(torch.arange(30), None)
    known = batch["labels"] != IGNORED
    right = functional.one_hot(batch["labels"].clamp(min=0), 10) * known.unsqueeze(-1) * 20.0 - 10.0
    smaller = batch["boxes"].clone()
    smaller[..., 2:] -= 0.33 * (smaller[..., 2:] - smaller[..., :2]) * torch.tensor([1.0, 0.0])  # IoU 0.67
    twice = torch.cat([right, right - 1], 1), torch.cat([batch["boxes"], batch["boxes"]], 1)
    got = scored(
        pages,
        {
            "teacher": (right, batch["boxes"]),
            "near": (right, smaller),
            "twice": twice,
            "nothing": (torch.full_like(right, -20.0), batch["boxes"]),
        },
    )
    assert got["teacher"] == {"box_ap": pytest.approx(1.0), "box_ap50": pytest.approx(1.0), "box_ap75": 1.0}
    assert got["near"]["box_ap"] == pytest.approx(0.4), "four of ten thresholds: 0.5, 0.55, 0.6 and 0.65"
    assert got["near"]["box_ap50"] == pytest.approx(1.0)
    assert got["near"]["box_ap75"] == 0.0
    assert got["twice"]["box_ap"] == pytest.approx(1.0), "the second of two equal boxes is suppressed"
    assert got["nothing"] == {"box_ap": 0.0, "box_ap50": 0.0, "box_ap75": 0.0, "box_agreement": 0.0}
    assert got["near"]["box_agreement"] == pytest.approx(1.0)


def test_a_detector_answers_boxes_from_its_edges() -> None:
    facts = Facts("detection", (1, 32, 48), classes=3)
    network = GFL(width=4, layers=0, stride=8, reach=4).build(facts).eval()
    seen = Model(network, Detection().build(facts)).signals(
        {"image": torch.rand(2, 1, 32, 48)}, ("logits", "edges", "places", "boxes", "scores", "features.backbone")
    )
    assert seen["features.backbone"].shape == (2, 4, 4, 6)
    assert seen["places"][0, 7].tolist() == pytest.approx([1.5 / 6, 1.5 / 4, 1 / 6, 1 / 4])
    away = (seen["edges"][0, 7].detach().softmax(-1) * torch.arange(5)).sum(-1)
    wanted = [0.25 - away[0] / 6, 0.375 - away[1] / 4, 0.25 + away[2] / 6, 0.375 + away[3] / 4]
    assert seen["boxes"][0, 7].tolist() == pytest.approx([float(x) for x in wanted], rel=1e-5)
    with pytest.raises(StillhouseError, match="32 does not divide"):
        GFL(stride=32).build(facts)


ADAM = {"kind": "adamw", "lr": 4e-3}


def recipe(**changes: Any) -> Recipe:
    told = {
        "name": "pages",
        "data": PAGES | {"train": 64, "validation": 16, "test": 32},
        "teacher": {
            "network": {"kind": "gfl", "width": 16},
            "weights": {"kind": "trained", "steps": 60, "batch_size": 16, "optimizer": ADAM},
        },
        "student": {"network": {"kind": "gfl", "width": 8, "layers": 1}},
        "method": {
            "kind": "match",
            "terms": [
                {"signal": "labels", "by": "dense_detection"},
                {"by": "edge_distillation", "weight": 0.05},
                {"by": "object_features", "signal": "features.backbone", "project": "conv", "weight": 0.1},
                {"by": "binary_kl"},
            ],
        },
        "train": {"steps": 60, "batch_size": 16, "optimizer": ADAM},
        "evaluate": [{"kind": "detection", "sure": 0.1}, "cost"],
    }
    return Recipe.model_validate(told | changes)


def test_a_detector_teaches_a_detector(tmp_path: Path) -> None:
    run = distill(recipe(), out=tmp_path / "run", progress=False)
    arms = run.summary["arms"]
    assert set(arms) == {"teacher", "student", "control"}
    assert 0 <= arms["student"]["box_ap"] <= arms["student"]["box_ap50"] <= 1
    assert "box_agreement" in arms["control"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["losses"]["total/student"] for line in lines if line["stage"] == "teacher"]
    assert losses[-1] < 0.7 * losses[0]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Average precision of boxes by class" in page
    assert "could not be drawn" not in page


def test_the_check_tells_what_a_detector_learns_from() -> None:
    wrong = recipe(method={"kind": "match", "terms": [{"signal": "labels", "by": "cross_entropy"}]})
    told = [finding.told for finding in check(wrong).findings if finding.level == "error"]
    assert any("say by: dense_detection" in text for text in told)
    report = check(recipe(student={"network": {"kind": "mlp"}}))
    assert any("no detector" in finding.told for finding in report.findings if finding.level == "error")


def test_a_detector_of_hugging_face_is_trained_and_teaches(tmp_path: Path) -> None:
    from transformers import YolosConfig, YolosForObjectDetection

    folder = tmp_path / "data"
    folder.mkdir()
    data = {"kind": "coco"} | coco_folder(folder) | {"size": 16, "flip": False}
    config = YolosConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[16, 16],
        patch_size=8,
        num_detection_tokens=4,
        num_labels=91,
    )
    torch.manual_seed(0)
    YolosForObjectDetection(config).save_pretrained(tmp_path / "yolos")
    network = {"kind": "hf-detector", "path": str(tmp_path / "yolos")}
    own = recipe(
        data=data,
        teacher={"network": network, "weights": {"kind": "trained", "steps": 60, "batch_size": 4, "optimizer": ADAM}},
        student={"network": network},
        method={
            "kind": "match",
            "terms": [
                {"signal": "labels", "by": "set_detection"},
                {"by": "kl"},
                {"signal": "boxes", "by": "l1"},
                {"signal": "features.vit.layernorm", "by": "mse"},
            ],
        },
        train={"steps": 20, "batch_size": 4, "optimizer": ADAM},
        evaluate=["detection"],
    )
    run = distill(own, out=tmp_path / "run", progress=False)
    assert set(run.summary["arms"]) == {"teacher", "student", "control"}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["losses"]["total/student"] for line in lines if line["stage"] == "teacher"]
    assert losses[-1] < 0.85 * losses[0]
