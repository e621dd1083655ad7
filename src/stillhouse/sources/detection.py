"""Images with objects in boxes: made of labelled images, or read from COCO's format."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import IGNORED, Batch, Data, Facts, Source
from stillhouse.engine.paths import resolve
from stillhouse.errors import StillhouseError
from stillhouse.sources.altered import classified
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.decoded import decode_files
from stillhouse.sources.detection_kinds import Coco, Scattered

COVERED = 0.1
"""The largest overlap (IoU) of two objects of a page."""
SEED = 0

Corners = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""


class Boxed:
    """A `Source` over images [N, C, H, W] with `labels` [N, M] and `boxes` [N, M, 4] as the contracts say.

    Args:
        content: a hash of all of them.
        rows: [n] those that are served, in order.
        flip: with a generator, every second image on average is mirrored, its boxes with it.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, boxes: Tensor, content: str, *, rows: Tensor, flip: bool = False
    ) -> None:
        self.fingerprint = hashlib.sha256(content.encode() + rows.numpy().tobytes()).hexdigest()
        self.source = ImageArray(images, labels, rows=rows, fingerprint=self.fingerprint)
        self.boxes = boxes[rows]
        self.augments = flip
        self.plain_with = "data.flip=false"

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        """`index` [B], `image` float [B, C, H, W] in [0, 1], `labels` [B, M], `boxes` [B, M, 4]."""
        batch = self.source.fetch(indices, None) | {"boxes": self.boxes[indices]}
        if rng is not None and self.augments:
            mirrored = torch.rand(len(indices), generator=rng) < 0.5
            low_x, low_y, high_x, high_y = batch["boxes"].unbind(-1)
            boxes = torch.stack([1 - high_x, low_y, 1 - low_x, high_y], -1)
            batch["image"] = torch.where(mirrored[:, None, None, None], batch["image"].flip(-1), batch["image"])
            batch["boxes"] = torch.where(mirrored[:, None, None], boxes, batch["boxes"])
        return batch


def scattered(kind: Scattered) -> Data:
    """Pages of images [C, h, w] of classified data. Raises StillhouseError where one, at its largest, fits no page."""
    data = classified(kind)
    if len(data.facts.shape) != 3:
        raise StillhouseError(f"data of kind 'scattered' is made of images, and its origin is of {data.facts.shape}")
    largest = max(round(kind.zoom[1] * side) for side in data.facts.shape[1:])
    if largest > kind.size:
        raise StillhouseError(
            f"an image of {data.facts.shape[1:]} at {kind.zoom[1]:g} times its size is {largest} pixels, and a page "
            f"has {kind.size}: set a larger data.size or a smaller data.zoom"
        )
    words = kind.model_dump_json(exclude={"of", "train", "validation", "test"})

    def split(number: int, source: Source, count: int) -> Boxed:
        rng = torch.Generator().manual_seed(3 * kind.seed + number)
        whole = source.fetch(torch.arange(len(source)), None)
        pages = [_page(kind, whole["image"], whole["labels"], rng) for _ in range(count)]
        images, labels, boxes = (torch.stack(side) for side in zip(*pages, strict=True))
        return Boxed(images, labels, boxes, f"{source.fingerprint} {words} {number}", rows=torch.arange(count))

    facts = Facts(
        task="detection",
        shape=(data.facts.shape[0], kind.size, kind.size),
        classes=data.facts.classes,
        names=data.facts.names,
        licence=data.facts.licence,
    )
    return Data(
        split(0, data.train, kind.train),
        split(1, data.validation, kind.validation),
        split(2, data.test, kind.test),
        facts,
    )


def coco(kind: Coco) -> Data:
    """See `Coco`. Raises StillhouseError for files that are not there or not of the format, an annotation of an image
    or a category there is not, and as `decode_files` does."""
    own = _read(kind.images, kind.annotations)
    whole = test = _decoded(own, kind)
    order = torch.randperm(len(own.files), generator=torch.Generator().manual_seed(SEED))
    if kind.test_images is None or kind.test_annotations is None:
        tested, order = _cut(order, kind.test)
    else:
        other = _read(kind.test_images, kind.test_annotations)
        if other.names != own.names:
            raise StillhouseError(f"{kind.annotations} and {kind.test_annotations} name other categories")
        test, tested = _decoded(other, kind), torch.arange(len(other.files))
    held_out, kept = _cut(order, kind.validation)
    facts = Facts("detection", tuple(whole[0].shape[1:]), classes=len(own.names), names=own.names)
    train = Boxed(*whole, rows=kept, flip=kind.flip)
    return Data(train, Boxed(*whole, rows=held_out), Boxed(*test, rows=tested), facts)


def _page(kind: Scattered, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A page [C, size, size], its objects' labels [M] and boxes [M, 4]; the first object always finds its place."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=rng).item()

    most = kind.objects[1]
    page = torch.zeros(images.shape[1], kind.size, kind.size)
    classes, placed = torch.full((most,), IGNORED), list[Corners]()
    for _ in range(int(torch.randint(kind.objects[0], most + 1, (), generator=rng))):
        row = int(torch.randint(len(images), (), generator=rng))
        scale = between(*kind.zoom)
        high, wide = (round(scale * side) for side in images.shape[2:])
        top, left = (int(torch.randint(kind.size - side + 1, (), generator=rng)) for side in (high, wide))
        box = (left, top, left + wide, top + high)
        if any(_overlap(box, other) > COVERED for other in placed):
            continue
        image = functional.interpolate(images[row : row + 1], size=(high, wide), mode="bilinear", align_corners=False)
        area = page[:, top : top + high, left : left + wide]
        torch.maximum(area, image[0], out=area)
        classes[len(placed)] = labels[row]
        placed.append(box)
    boxes = torch.zeros(most, 4)
    boxes[: len(placed)] = torch.tensor(placed) / kind.size
    return (page + kind.noise * torch.randn(page.shape, generator=rng)).clamp(0, 1), classes, boxes


def _overlap(first: Corners, second: Corners) -> float:
    """Intersection over union: plain numbers, since a page asks for few at a time and often."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    both = max(wide, 0) * max(high, 0)
    return both / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - both)


@dataclass(frozen=True)
class _Annotated:
    """The images of a COCO file, in the order of their ids, and what is told of them."""

    files: list[Path]
    sizes: list[tuple[int, int]]
    objects: list[list[tuple[int, list[float]]]]
    """Of each image, class and [x, y, width, height] in its pixels."""
    names: tuple[str, ...]


def _read(images: str, annotations: str) -> _Annotated:
    folder, file = resolve(images), resolve(annotations)
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        categories = {one["id"]: one["name"] for one in sorted(told["categories"], key=lambda one: one["id"])}
        classes = {number: place for place, number in enumerate(categories)}
        known = sorted(told["images"], key=lambda one: one["id"])
        objects: dict[Any, list[tuple[int, list[float]]]] = defaultdict(list)
        for one in told["annotations"]:
            if not one.get("iscrowd", 0):
                objects[one["image_id"]].append((classes[one["category_id"]], [float(x) for x in one["bbox"]]))
        sizes = [(int(one["width"]), int(one["height"])) for one in known]
        files = [folder / one["file_name"] for one in known]
        each = [objects.pop(one["id"], []) for one in known]
    except OSError as error:
        raise StillhouseError(f"{file} cannot be read ({error.strerror}). Relative paths start at --root") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StillhouseError(
            f"{file} is not of COCO's format ({type(error).__name__}: {error}): it has `images` (id, file_name, width, "
            "height), `annotations` (image_id, category_id, bbox) and `categories` (id, name)"
        ) from error
    if objects:
        raise StillhouseError(f"{file}: there are annotations of image {next(iter(objects))}, and no such image")
    if missing := [str(one) for one in files if not one.is_file()]:
        raise StillhouseError(f"{file}: {len(missing)} of {len(files)} images are not there, such as {missing[0]}")
    if len(files) < 3:
        raise StillhouseError(f"{file} has {len(files)} images: three splits need three at least")
    return _Annotated(files, sizes, each, tuple(categories.values()))


def _decoded(told: _Annotated, kind: Coco) -> tuple[Tensor, Tensor, Tensor, str]:
    """Images, labels [N, M], boxes [N, M, 4] in shares of the middle square, and a hash of all."""
    for file, size in zip(told.files, told.sizes, strict=True):
        _has_size(file, size)
    found = decode_files(told.files, [0] * len(told.files), size=kind.size, mode="L" if kind.grey else "RGB")
    seen = [_in_square(size, objects) for size, objects in zip(told.sizes, told.objects, strict=True)]
    most = max(1, *(len(one) for one in seen))
    labels, boxes = torch.full((len(seen), most), IGNORED), torch.zeros(len(seen), most, 4)
    for row, objects in enumerate(seen):
        for place, (label, box) in enumerate(objects):
            labels[row, place], boxes[row, place] = label, torch.tensor(box)
    content = hashlib.sha256(found.fingerprint.encode() + labels.numpy().tobytes() + boxes.numpy().tobytes())
    return found.images, labels, boxes, content.hexdigest()


def _has_size(file: Path, size: tuple[int, int]) -> None:
    """Raises StillhouseError for an image of another size than its boxes were drawn on, which would move them all."""
    try:
        with Image.open(file) as picture:
            found = picture.size
    except (UnidentifiedImageError, OSError) as error:
        raise StillhouseError(f"{file}: the image cannot be decoded ({error})") from error
    if found != size:
        raise StillhouseError(
            f"{file} is {found[0]} x {found[1]} pixels, and the annotations are of {size[0]} x {size[1]}: its boxes "
            "would not fit"
        )


def _in_square(size: tuple[int, int], objects: list[tuple[int, list[float]]]) -> list[tuple[int, list[float]]]:
    """Boxes [x, y, width, height] in pixels as corners in shares of the image's middle square, cut off at its sides."""
    side = min(size)
    away = [(whole - side) / 2 for whole in size]
    kept = []
    for label, (x, y, wide, high) in objects:
        corners = [(x - away[0]) / side, (y - away[1]) / side, (x + wide - away[0]) / side, (y + high - away[1]) / side]
        middle = ((corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2)
        if all(0 < place < 1 for place in middle) and wide > 0 and high > 0:
            kept.append((label, [min(1.0, max(0.0, corner)) for corner in corners]))
    return kept


def _cut(rows: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The first rows, of this share and one at least, and the others, each ascending."""
    count = max(1, round(share * len(rows)))
    return rows[:count].sort().values, rows[count:].sort().values
