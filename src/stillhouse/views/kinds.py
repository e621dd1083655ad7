"""The views a recipe may name. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from stillhouse.kinds import Kind

if TYPE_CHECKING:
    from stillhouse.engine.contracts import Facts


class ViewKind(Kind):
    """What a model gets to see of a batch: `build(facts)` gives a `stillhouse.views.model.View`."""

    family: ClassVar[str] = "view"

    def alone(self) -> ViewKind:
        """The view with which such a model is trained by itself, where no other image stands beside its own."""
        return self


class Image(ViewKind):
    """The image, normalised by channel."""

    kind: Literal["image"] = "image"
    builds = "stillhouse.views.image:ImageView"
    mean: tuple[float, ...] = (0.0,)
    """By channel, or one for all."""
    std: tuple[float, ...] = (1.0,)
    """By channel, or one for all."""
    field: str = "image"
    """Of the batch: which image is seen, where data gives several."""

    def alone(self) -> Image:
        return self.model_copy(update={"field": "image"})


class Segmentation(ViewKind):
    """The image, normalised by channel; a class for every pixel is read."""

    kind: Literal["segmentation"] = "segmentation"
    builds = "stillhouse.views.segmentation:SegmentationView"
    mean: tuple[float, ...] = (0.0,)
    """By channel, or one for all."""
    std: tuple[float, ...] = (1.0,)
    """By channel, or one for all."""

    def image(self) -> Image:
        """What is seen, apart from how the answer is read."""
        return Image(mean=self.mean, std=self.std)


class Detection(ViewKind):
    """The image, normalised by channel; objects are read, each a class and a box."""

    kind: Literal["detection"] = "detection"
    builds = "stillhouse.views.detection:DetectionView"
    mean: tuple[float, ...] = (0.0,)
    """By channel, or one for all."""
    std: tuple[float, ...] = (1.0,)
    """By channel, or one for all."""

    def image(self) -> Image:
        """What is seen, apart from how the answer is read."""
        return Image(mean=self.mean, std=self.std)


class Row(ViewKind):
    """A table's row: its `features` as they are."""

    kind: Literal["row"] = "row"
    builds = "stillhouse.views.row:RowView"


class Field(ViewKind):
    """One field of the batch as it is, for networks that read neither images nor tokens of text."""

    kind: Literal["field"] = "field"
    builds = "stillhouse.views.field:FieldView"
    field: str
    """What the network reads."""
    truth: str = "labels"
    """The field that terms on labels are held to."""


class Tokens(ViewKind):
    """Token ids; logits are read one position ahead of the token they predict."""

    kind: Literal["tokens"] = "tokens"
    builds = "stillhouse.views.tokens:TokenView"


class Encoder(ViewKind):
    """Token ids; logits are those of the whole text, or of each position as it stands."""

    kind: Literal["encoder"] = "encoder"
    builds = "stillhouse.views.encoder:EncoderView"


class Sentence(ViewKind):
    """Token ids; the signal `embedding` is the mean of the last layer's states, of length one."""

    kind: Literal["sentence"] = "sentence"
    builds = "stillhouse.views.encoder:SentenceView"


def plain_view(facts: Facts) -> ViewKind:
    """The view of a model for data of these facts that names none."""
    if facts.task == "segmentation":
        return Segmentation()
    if facts.task == "detection":
        return Detection()
    if facts.task == "language":
        return Tokens()
    if facts.tokenizer is not None:
        return Encoder()
    return Row() if len(facts.shape) == 1 else Image()
