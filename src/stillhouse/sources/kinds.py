"""The data a recipe may name. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from stillhouse.kinds import Kind


class DataKind(Kind):
    """Three splits (train, validation, test) of one data set: builds a `stillhouse.engine.contracts.Data`."""

    family: ClassVar[str] = "data"

    @property
    def origin(self) -> DataKind:
        """What the data is made of in the end: itself, where it is not other data altered."""
        return self


class SplitKind(DataKind):
    """Data that is split into three here, by shares."""

    test: Annotated[float, Field(gt=0, lt=1)]
    validation: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _something_to_train_on(self) -> SplitKind:
        if self.test + self.validation >= 1:
            raise ValueError("'test' and 'validation' together leave nothing to train on; their sum must stay below 1")
        return self


class Digits(SplitKind):
    """scikit-learn's 1,797 real images of handwritten digits: 8 x 8, grey, 10 classes. Nothing is downloaded."""

    kind: Literal["digits"] = "digits"
    builds = "stillhouse.sources.digits:digits"
    test: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the images kept for the report, drawn once by class with a fixed seed."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share kept for tuning, never reported."""
    shift: Annotated[int, Field(ge=0, le=3)] = 1
    """Training images are moved by up to this many pixels each way."""
    limit: Annotated[int, Field(ge=10)] | None = None
    """Training images kept, of each class its share; None keeps all."""


class ImageParquet(DataKind):
    """Images of a Hugging Face data set, in Parquet files or as saved to disk: encoded bytes and a class in each row.

    All images of one size. They are decoded once and kept in the cache folder, memory-mapped from then on.
    """

    kind: Literal["image-parquet"] = "image-parquet"
    builds = "stillhouse.sources.images:image_parquet"
    path: Annotated[str, Field(min_length=1)]
    """A folder with train*.parquet and test*.parquet, or with train/*.arrow and test/*.arrow (`save_to_disk`), or
    `hub:owner/name`, downloaded from the Hugging Face hub."""
    image: str = "img"
    """Column of the images."""
    label: str = "label"
    """Column of the class indices."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training images kept for tuning, drawn once by class with a fixed seed."""
    crop: Annotated[int, Field(ge=0)] = 4
    """Training images are cut at random from the image with this many zero pixels around it."""
    flip: bool = True
    """Every second training image on average is mirrored left to right."""


class ImageFolder(SplitKind):
    """Images in folders, one a class: `train/<class>/*` and `test/<class>/*`, or `<class>/*`, split by class.

    They are decoded once and kept in the cache folder, memory-mapped from then on.
    """

    kind: Literal["image-folder"] = "image-folder"
    builds = "stillhouse.sources.folder:image_folder"
    path: Annotated[str, Field(min_length=1)]
    """Relative to --root."""
    size: Annotated[int, Field(gt=0)] | None = None
    """Height and width that the middle square of each image is brought to; None: all are of one size already."""
    grey: bool = False
    """One channel in place of three."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the images kept for the report where there is no folder `test`, drawn once by class."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share kept for tuning, never reported: of the training images, or of all where there is no folder `test`."""
    crop: Annotated[int, Field(ge=0)] = 4
    """Training images are cut at random from the image with this many zero pixels around it."""
    flip: bool = True
    """Every second training image on average is mirrored left to right."""


class AudioFolder(SplitKind):
    """Sounds in folders, one a class, laid out as for `image-folder`: WAV, FLAC, Ogg, MP3 and others.

    They are decoded once and kept in the cache folder, memory-mapped from then on. A batch has `features`
    [B, samples], the wave in [-1, 1].
    """

    kind: Literal["audio-folder"] = "audio-folder"
    builds = "stillhouse.sources.folder:audio_folder"
    needs: ClassVar[str] = "audio"
    path: Annotated[str, Field(min_length=1)]
    """Relative to --root."""
    rate: Annotated[int, Field(gt=0)] = 16_000
    """Samples a second that each sound is brought to; a pretrained model's own."""
    seconds: Annotated[float, Field(gt=0)] = 1.0
    """Kept of each, from its beginning; shorter ones end in silence."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the sounds kept for the report where there is no folder `test`, drawn once by class."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share kept for tuning, never reported: of the training sounds, or of all where there is no folder `test`."""


class Tensors(DataKind):
    """Arrays of one's own in a file: images, or anything a network takes, with one class an example or several.

    `<split>_x` [N, ...] float, or uint8 images served as value / 255, and `<split>_y` [N] whole numbers, [N, C]
    zeros and ones where an example has several labels, or [N, H, W] whole numbers where each pixel has one (255: none
    that counts); the splits are `train`, `test` and, where it is there, `validation`.
    """

    kind: Literal["tensors"] = "tensors"
    builds = "stillhouse.sources.tensors:tensors"
    path: Annotated[str, Field(min_length=1)]
    """A .safetensors or .npz file; relative to --root."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training examples kept for tuning where the file has no such split, drawn once, by class where
    there is one."""
    names: list[str] = []
    """Of the classes, for the report."""


class TextKind(SplitKind):
    """Running text in blocks of tokens: what the kinds of text share."""

    needs: ClassVar[str] = "language"
    block: Annotated[int, Field(ge=2)] = 64
    """Tokens in an example."""
    vocabulary: Annotated[int, Field(ge=257)] = 1024
    """Size of the byte-pair vocabulary trained on the training split."""
    mask: bool = False
    """Keep a token of that vocabulary for masked positions, as masked language models need."""
    tokenizer: str | None = None
    """A folder with a Hugging Face tokenizer, or `hub:owner/name`, in place of a trained one."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the text kept for the report, in stretches spread over the whole."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share kept for tuning, never reported."""


class PythonTopics(TextKind):
    """The language reference in every Python (`pydoc_data.topics`), each paragraph once. Nothing is downloaded."""

    kind: Literal["python-topics"] = "python-topics"
    builds = "stillhouse.sources.text:python_topics"


class Text(TextKind):
    """Text of one's own: a UTF-8 file, or the lines of a JSON Lines file."""

    kind: Literal["text"] = "text"
    builds = "stillhouse.sources.text:text"
    path: Annotated[str, Field(min_length=1)]
    """A text file, or a file named *.jsonl with one JSON object a line; relative to --root."""
    field: str | None = None
    """The key of the text in each line of a .jsonl file; every line is a document of its own."""
