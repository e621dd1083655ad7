"""How well objects are found."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torch.nn import functional

from stillhouse.errors import NothingToMeasure
from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.detection_kinds import DetectionScore
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.pictures import sheet
from stillhouse.objectives.boxes import suppressed

LEAST = 0.01
"""Finds less probable are left out."""
MOST, KEPT = 100, 1000
"""Finds of an image that count, as COCO counts, and of a class in it that are looked at for overlaps, as FCOS does."""
PIXELS = 1000
"""What boxes in shares are multiplied by: pycocotools rounds nothing, but sorts objects by size in pixels."""

SHOWN, SHOWN_SIZE = 8, 96
"""Images of the report's figure, and the pixels each way that larger ones are brought to."""
TRUE_COLOUR, FOUND_COLOUR = (0.0, 0.62, 0.45), (0.9, 0.4, 0.0)

Object = tuple[int, int, list[float], float]
"""Image, class, corners, probability (1 for the data's own)."""


def detection(kind: DetectionScore, arm: Arm, context: Context) -> Findings:
    """Average precision over classes and IoU thresholds (Lin et al. 2014, COCO), as pycocotools counts it: at most 100
    boxes an image, after non-maximum suppression by class. A figure tells it by class.

    Raises StillhouseError where the split has no object.
    """
    true = _true(context)
    if not true:
        raise NothingToMeasure("no image of the measured split has an object")
    found = _finds(kind, arm, context)
    precision = _precision(true, found, context)  # [IoU thresholds, classes], -1 where a class does not occur
    each = {"box_ap": precision, "box_ap50": precision[:1], "box_ap75": precision[5:6]}
    findings = Findings(metrics={name: _mean(part) for name, part in each.items()})
    findings.figures += [_by_class(precision, context), _shown(true, found, context, kind.sure)]
    if "teacher" in context.arms and arm.name != "teacher":
        sure = [one for one in _finds(kind, context.arms["teacher"], context) if one[3] >= kind.sure]
        if sure:
            findings.metrics["box_agreement"] = _mean(_precision(sure, found, context)[:1])
    return findings


def _true(context: Context) -> list[Object]:
    objects = []
    for batch in batches(context.source, context.batch_size, "cpu"):
        for image, labels, boxes in zip(batch["index"], batch["labels"], batch["boxes"], strict=True):
            known = labels >= 0
            objects += [(int(image), int(c), b.tolist(), 1.0) for c, b in zip(labels[known], boxes[known], strict=True)]
    return objects


def _finds(kind: DetectionScore, arm: Arm, context: Context) -> list[Object]:
    """What an arm finds on the split, most probable first within an image."""
    key = ("finds", arm.name, kind.suppress, context.source.fingerprint)
    if key not in context.memo:
        found = []
        with measuring(arm.model):
            for batch in batches(context.source, context.batch_size, context.device):
                signals = arm.model.signals(batch, ("scores", "boxes"))
                scores, boxes = signals["scores"].float().cpu(), signals["boxes"].float().cpu().clamp(0, 1)
                for image, own, places in zip(batch["index"].tolist(), scores, boxes, strict=True):
                    found += [(image, *one) for one in _of_image(own, places, kind.suppress)]
        context.memo[key] = found
    return context.memo[key]


def _of_image(scores: Tensor, boxes: Tensor, above: float) -> list[tuple[int, list[float], float]]:
    """The finds of one image from scores [N, C] and boxes [N, 4]."""
    found = []
    for label in (scores > LEAST).any(0).nonzero().squeeze(1).tolist():
        own = scores[:, label]
        rows = (own > LEAST).nonzero().squeeze(1)
        rows = rows[own[rows].argsort(descending=True, stable=True)[:KEPT]]
        for row in rows[suppressed(boxes[rows], own[rows], above=above)].tolist():
            found.append((label, boxes[row].tolist(), float(own[row])))
    return sorted(found, key=lambda one: -one[2])[:MOST]


def _precision(true: list[Object], found: list[Object], context: Context) -> Tensor:
    """Average precision by IoU threshold (0.5, 0.55, ... 0.95) and class, [10, C]; -1 where none of a class is true."""
    classes = context.data.facts.classes
    if not found:
        there = torch.tensor([one[1] for one in true]).unique()
        return torch.full((10, classes), -1.0).index_fill(1, there, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        truth: Any = COCO()
        truth.dataset = {
            "images": [{"id": image} for image in range(len(context.source))],
            "categories": [{"id": number} for number in range(classes)],
            "annotations": [_annotation(one) | {"id": n, "iscrowd": 0} for n, one in enumerate(true, start=1)],
        }
        truth.createIndex()
        scored = COCOeval(truth, truth.loadRes([_annotation(one) | {"score": one[3]} for one in found]), "bbox")
        scored.evaluate()
        scored.accumulate()
    precision: Any = scored.eval["precision"]  # [thresholds, recalls, classes, sizes, most finds]
    return torch.from_numpy(precision[:, :, :, 0, -1]).mean(1)


def _by_class(precision: Tensor, context: Context) -> dict[str, Any]:
    names = context.data.facts.names or [str(number) for number in range(context.data.facts.classes)]
    each = {name: _mean(column) for name, column in zip(names, precision.T, strict=True) if (column >= 0).any()}
    title, labels, series = "Average precision of boxes by class", list(each), {"": list(each.values())}
    return {"kind": "dots", "title": title, "labels": labels, "series": series, "unit": "share"}


def _shown(true: list[Object], found: list[Object], context: Context, sure: float) -> dict[str, Any]:
    """The first images with the data's boxes in green and what was surely found in orange."""
    count = min(SHOWN, len(context.source))
    images = context.source.fetch(torch.arange(count), None)["image"]
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]
    size = [min(SHOWN_SIZE, side) for side in images.shape[2:]]
    images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False).contiguous()
    drawn = [(one, TRUE_COLOUR) for one in true] + [(one, FOUND_COLOUR) for one in found if one[3] >= sure]
    for (image, _, corners, _), colour in drawn:
        if image >= count:
            continue
        left, right = (min(round(x * size[1]), size[1] - 1) for x in corners[::2])
        top, bottom = (min(round(y * size[0]), size[0] - 1) for y in corners[1::2])
        paint = torch.tensor(colour).view(3, 1)
        for line in (top, bottom):
            images[image, :, line, left : right + 1] = paint
        for column in (left, right):
            images[image, :, top : bottom + 1, column] = paint
    title = f"Objects: the data's in green, found with probability {sure:g} or more in orange"
    return sheet(title, images, columns=4)


def _annotation(one: Object) -> dict[str, Any]:
    image, label, (left, top, right, bottom), _ = one
    wide, high = PIXELS * (right - left), PIXELS * (bottom - top)
    box = [PIXELS * left, PIXELS * top, wide, high]
    return {"image_id": image, "category_id": label, "bbox": box, "area": wide * high}


def _mean(precision: Tensor) -> float:
    """Over the classes that occur."""
    return precision[precision >= 0].mean().item()
