"""Data made of other data: fewer examples, other labels, mixed or doubled images. Imports no torch.

Each has the data it is made `of`, which may be altered itself. What is said to change the training split leaves
validation and test as they are.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.engine.settings import Positive
from stillhouse.kinds import AnyKind, Strict
from stillhouse.sources.kinds import DataKind

Class = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class AlteredKind(DataKind):
    """What all of them share."""

    of: Annotated[DataKind, AnyKind("data")]
    """The data that is altered."""

    @property
    def origin(self) -> DataKind:
        return self.of.origin


class LongTailed(AlteredKind):
    """Training examples of class c kept in proportion to ratio^(-c / (C - 1)), Cao et al. 2019 (arXiv:1906.07413)."""

    kind: Literal["long-tailed"] = "long-tailed"
    builds = "stillhouse.sources.altered:long_tailed"
    ratio: Annotated[float, Field(gt=1)] = 100.0
    """Examples of the first class to one of the last."""


class OnlyClasses(AlteredKind):
    """Training examples of these classes alone; the number of classes stays."""

    kind: Literal["only-classes"] = "only-classes"
    builds = "stillhouse.sources.altered:only_classes"
    classes: Annotated[list[Class], Field(min_length=1)]


class Grouped(AlteredKind):
    """Classes put together into fewer, in every split."""

    kind: Literal["grouped"] = "grouped"
    builds = "stillhouse.sources.altered:grouped"
    groups: Annotated[list[Annotated[list[Class], Field(min_length=1)]], Field(min_length=2)]
    """The classes of each new class; examples of classes that none names are left out."""


class NoisyLabels(AlteredKind):
    """A share of the training labels replaced by another class, drawn once and evenly."""

    kind: Literal["noisy-labels"] = "noisy-labels"
    builds = "stillhouse.sources.altered:noisy_labels"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    seed: Seed = 0


class PartlyLabelled(AlteredKind):
    """All but a few training labels withheld: such an example counts zero in `cross_entropy` on labels.

    Other terms that take labels cannot be used on it.
    """

    kind: Literal["partly-labelled"] = "partly-labelled"
    builds = "stillhouse.sources.altered:partly_labelled"
    labels: Annotated[int, Field(gt=0)]
    """Labels kept, of each class its share."""
    seed: Seed = 0


class Fewer(AlteredKind):
    """A part of the training examples, of each class its share; of tags or several labels an example, any."""

    kind: Literal["fewer"] = "fewer"
    builds = "stillhouse.sources.altered:fewer"
    limit: Annotated[int, Field(gt=0)]
    """Examples kept."""
    seed: Seed = 0


class MixUp(AlteredKind):
    """Training images mixed in pairs, Zhang et al. 2018 (arXiv:1710.09412); labels become distributions.

    Teacher and student see the same mixed image. Terms that need class indices cannot be used on it.
    """

    kind: Literal["mixup"] = "mixup"
    builds = "stillhouse.sources.mixing:mixup"
    alpha: Positive = 1.0
    """Of the Beta distribution that shares are drawn from; 1: evenly."""


class CutMix(AlteredKind):
    """A rectangle of each training image taken from another, Yun et al. 2019 (arXiv:1905.04899); as for `mixup`."""

    kind: Literal["cutmix"] = "cutmix"
    builds = "stillhouse.sources.mixing:cutmix"
    alpha: Positive = 1.0
    """Of the Beta distribution that areas are drawn from; 1: evenly."""


class TwoViews(AlteredKind):
    """A second image of each training example, `second_image`, for a view that names it as its `field`."""

    kind: Literal["two-views"] = "two-views"
    builds = "stillhouse.sources.mixing:two_views"
    second: Literal["augmented", "plain"] = "augmented"
    """Augmented on its own, or as it is."""


class Jitter(Strict):
    """How far an image is changed at most, each time anew: how it lies, and how it is inked."""

    zoom: Share = 0.1
    """Height and width, each by exp of up to this, both ways."""
    degrees: Annotated[float, Field(ge=0, le=180)] = 8.0
    """Turned, either way."""
    slant: Share = 0.1
    move: Share = 0.1
    """Share of half the image's height and width."""
    blur: Share = 0.5
    """Share of a mean over 3 x 3 pixels."""
    fade: Share = 0.3
    """Of the contrast."""
    noise: Share = 0.1
    """Standard deviation of what is added to each pixel."""


class Jittered(AlteredKind):
    """Training images changed at random each time they are drawn; with `two-views` around it, two unlike views."""

    kind: Literal["jittered"] = "jittered"
    builds = "stillhouse.sources.jitter:jittered"
    by: Jitter = Jitter()


class Lines(AlteredKind):
    """A training image becomes a line of images side by side, itself and any others; its label stays.

    For networks that take images of any width. Without augmentation, and in validation and test, images are single.
    """

    kind: Literal["lines"] = "lines"
    builds = "stillhouse.sources.jitter:lines"
    length: Annotated[int, Field(ge=2)] = 4
    """Images of a line."""


class Collage(AlteredKind):
    """Images of a labelled set side by side in a square, drawn at random: which classes are among them is asked.

    The images of a square are of one split. An example has several labels, zeros and ones for each class.
    """

    kind: Literal["collage"] = "collage"
    builds = "stillhouse.sources.collage:collage"
    side: Annotated[int, Field(ge=2)] = 2
    """Images of a square, each way."""
    train: Annotated[int, Field(gt=0)] = 4000
    """Squares."""
    validation: Annotated[int, Field(gt=0)] = 1000
    test: Annotated[int, Field(gt=0)] = 2000
    seed: Seed = 0


class Rotated(AlteredKind):
    """Training images turned about their middle: another domain of the same classes."""

    kind: Literal["rotated"] = "rotated"
    builds = "stillhouse.sources.shown:rotated"
    degrees: float
    """Counter-clockwise."""


class Permuted(AlteredKind):
    """The pixels of every training image in one other order: a domain that shares no shape with its origin."""

    kind: Literal["permuted"] = "permuted"
    builds = "stillhouse.sources.shown:permuted"
    seed: Seed = 0


class Halves(AlteredKind):
    """Images as two modalities, in every split: what lies left of the middle and what lies right, the rest black.

    Batches have `image`, the other half as `second_image`, and the uncut `whole_image`.
    """

    kind: Literal["halves"] = "halves"
    builds = "stillhouse.sources.shown:halves"
    first: Literal["left", "right", "both"] = "left"
    """What `image` is; `both` for a model of the two modalities, trained by itself."""


class NoisyViews(AlteredKind):
    """Several views of every image, in every split, each with noise of its own, drawn once for each image.

    Batches have the first view as `image`, the second as `second_image`, and the mean of all as `whole_image`.
    """

    kind: Literal["noisy-views"] = "noisy-views"
    builds = "stillhouse.sources.shown:noisy_views"
    views: Annotated[int, Field(ge=2)] = 4
    noise: Positive = 0.5
    """Standard deviation of what is added to each pixel of a view."""


class Domains(AlteredKind):
    """Training images of several domains, each turned by its own angle; validation and test are of one held out.

    Batches have `domain`, the number of each image's domain (-1: held out).
    """

    kind: Literal["domains"] = "domains"
    builds = "stillhouse.sources.shown:domains"
    degrees: Annotated[list[float], Field(min_length=2)]
    """Of the training domains, counter-clockwise; every image belongs to one of them."""
    held_out: float
    """Of validation and test."""


class Panels(AlteredKind):
    """Two images of different classes side by side, in every split, for data whose images have a `domain`.

    Class c1 C + c2 stands for classes c1 and c2 of C, `domain` is the first image's.
    """

    kind: Literal["panels"] = "panels"
    builds = "stillhouse.sources.panels:panels"
    consistent: Share = 0.5
    """Of the pairs, how many are chosen to be of one domain; the second image of the others is any."""
    seed: Seed = 0


class Distorted(AlteredKind):
    """Images blurred and noised, each as much as drawn for it, with a mark for its quality: a regression."""

    kind: Literal["distorted"] = "distorted"
    builds = "stillhouse.sources.distorted:distorted"
    opinions: Annotated[int, Field(ge=0)] = 1
    """People whose marks a training mark is the mean of, each with a scatter of 0.2; 0: no scatter."""
    seed: Seed = 0


class SparseViews(AlteredKind):
    """Images reconstructed from few projections, in every split, to be restored to the images themselves.

    Batches have `image` from `views` angles, `second_image` from `more`, and the true image as `labels`.
    """

    kind: Literal["sparse-views"] = "sparse-views"
    builds = "stillhouse.sources.tomography:sparse_views"
    views: Annotated[int, Field(gt=0)] = 4
    more: Annotated[int, Field(gt=0)] = 8
    first: Literal["few", "more"] = "few"
    """What `image` is; `more` for a teacher that is trained by itself."""


class LowResolution(AlteredKind):
    """Images at a lower resolution and with noise, in every split, to be brought back to the images themselves.

    Batches have the small `image`, the true one as `labels`, and its label as `class`.
    """

    kind: Literal["low-resolution"] = "low-resolution"
    builds = "stillhouse.sources.low_resolution:low_resolution"
    factor: Annotated[int, Field(ge=2)] = 2
    """Pixels of the image to one of the small one, each way."""
    noise: Annotated[float, Field(ge=0)] = 0.05
    """Standard deviation of what is added to each pixel of the small one."""
    seed: Seed = 0
