"""Data for object detection. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stillhouse.sources.altered_kinds import AlteredKind, Seed
from stillhouse.sources.kinds import DataKind

Count = Annotated[int, Field(gt=0)]


class Scattered(AlteredKind):
    """Pages with several images of a labelled data set at random places and sizes: their classes and boxes are asked.

    A page is made of images of one split. Where two meet, and on the black of the page, the brighter pixel is seen.
    """

    kind: Literal["scattered"] = "scattered"
    builds = "stillhouse.sources.detection:scattered"
    size: Count = 48
    """Height and width of a page."""
    objects: tuple[Count, Count] = (1, 4)
    """The fewest and the most tried on a page; one that would cover another by more than a tenth (IoU) is left out."""
    zoom: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.0, 2.5)
    """The least and the largest size of an image, in its own."""
    noise: Annotated[float, Field(ge=0)] = 0.1
    """Standard deviation of what is added to every pixel."""
    train: Count = 2000
    """Pages."""
    validation: Count = 500
    test: Count = 500
    seed: Seed = 0

    @model_validator(mode="after")
    def _in_order(self) -> Scattered:
        for name in ("objects", "zoom"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the first is the smaller of the two, not [{low}, {high}]")
        return self


class Coco(DataKind):
    """Images of a folder with boxes in a JSON file of COCO's format (`images`, `annotations`, `categories`).

    Of each image the middle square is taken; a box is cut off there, and left out where its middle lies outside, as are
    crowds (`iscrowd`). Images are decoded once and kept in the cache folder, memory-mapped from then on.
    """

    kind: Literal["coco"] = "coco"
    builds = "stillhouse.sources.detection:coco"
    images: Annotated[str, Field(min_length=1)]
    """Folder that `file_name` starts from, relative to --root."""
    annotations: Annotated[str, Field(min_length=1)]
    """The JSON file, relative to --root."""
    test_images: str | None = None
    """The same two for the images of the report; None: a share of the others."""
    test_annotations: str | None = None
    size: Count = 224
    """Height and width that the middle square of each image is brought to."""
    grey: bool = False
    """One channel in place of three."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the images kept for the report where there are no `test_annotations`."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the images kept for tuning, never reported."""
    flip: bool = True
    """Every second training image on average is mirrored left to right."""

    @model_validator(mode="after")
    def _both(self) -> Coco:
        if (self.test_images is None) != (self.test_annotations is None):
            raise ValueError("test_images and test_annotations go together: name both or neither")
        return self
