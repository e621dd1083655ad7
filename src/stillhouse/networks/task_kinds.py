"""The networks of particular tasks: adaptation, parsing, scenes, marks for quality, restoration, enlargement, prompts.

Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from stillhouse.engine.settings import Positive
from stillhouse.kinds import AnyKind
from stillhouse.networks.kinds import Denoiser, NetworkKind, Width


class Adapting(NetworkKind):
    """A network with what it takes to adapt to a new domain by asking experts (Zhong et al. 2022, arXiv:2210.03885)."""

    kind: Literal["adapting"] = "adapting"
    builds = "stillhouse.networks.adapting:Adapting"
    of: Annotated[NetworkKind, AnyKind("network")]
    """What answers, and takes the step."""
    tap: str
    """Module path in it of the features that are brought to the experts', vectors [B, D]."""
    expert_tap: str
    """The same of the experts."""
    width: Width
    """D, of both."""
    heads: Annotated[int, Field(gt=0)] = 4
    """Of the aggregator's attention over experts."""
    rate: Positive = 0.1
    """Of the step."""


class SpanParser(NetworkKind):
    """Scores of the spans of a sentence, from a bidirectional LSTM: a parser, with a view of `input_ids`."""

    kind: Literal["span-parser"] = "span-parser"
    builds = "stillhouse.networks.span_parser:SpanParser"
    width: Width = 32


class GaussianField(NetworkKind):
    """Features on the Gaussians of data of kind `scene`, with the view of its `weights`."""

    kind: Literal["gaussian-field"] = "gaussian-field"
    builds = "stillhouse.networks.gaussian_field:GaussianField"


class Opinions(NetworkKind):
    """A mark for an image as the mean of several opinions (Chen et al. 2024, MobileIQA, arXiv:2409.01212)."""

    kind: Literal["opinions"] = "opinions"
    builds = "stillhouse.networks.opinions:Opinions"
    pretraining: ClassVar[dict[str, Any]] = {"kind": "match", "terms": [{"signal": "labels", "by": "mse"}]}
    width: Width = 8
    """Channels of the first convolution; the second has twice as many."""
    opinions: Annotated[int, Field(gt=0)] = 3
    features: Width = 16
    """Of each opinion."""


class GlobalRestorer(NetworkKind):
    """Restores images through Fourier convolutions (Li et al. 2023, GloReDi, arXiv:2308.08463)."""

    kind: Literal["global-restorer"] = "global-restorer"
    builds = "stillhouse.networks.global_restorer:GlobalRestorer"
    pretraining: ClassVar[dict[str, Any]] = {"kind": "match", "terms": [{"signal": "labels", "by": "mse"}]}
    width: Width = 16


class SuperResolver(NetworkKind):
    """Enlarges small images by a multilayer perceptron, which sees all of an image for each pixel of it."""

    kind: Literal["super-resolver"] = "super-resolver"
    builds = "stillhouse.networks.super_resolver:SuperResolver"
    pretraining: ClassVar[dict[str, Any]] = {"kind": "match", "terms": [{"signal": "labels", "by": "mse"}]}
    factor: Annotated[int, Field(ge=2)] = 2
    """By how much, each way: that of data of kind `low-resolution`."""
    hidden: list[Width] = [256, 256]
    """Width of each hidden layer."""
    controlled: bool = False
    """Whether it takes a `trade_off` from 0 to 1, as method `fidelity-realness` gives one."""


class NearestExample(NetworkKind):
    """The training image whose low resolution is nearest to the input: `weights: fitted`. A teacher, no student.

    Example-based super-resolution (Freeman et al. 2002): what it gives is real, and seldom the true image.
    """

    kind: Literal["nearest-example"] = "nearest-example"
    builds = "stillhouse.networks.super_resolver:NearestExample"
    factor: Annotated[int, Field(ge=2)] = 2
    """By how much, each way: that of data of kind `low-resolution`."""


class Prompted(NetworkKind):
    """A denoiser told the class by a word, through an adapter that alone is trained (arXiv:2311.17086)."""

    kind: Literal["prompted-denoiser"] = "prompted-denoiser"
    builds = "stillhouse.networks.prompted:Prompted"
    pretraining: ClassVar[dict[str, Any]] = {"kind": "denoise"}
    of: Denoiser
    """The denoiser; its weights come from elsewhere: `weights: {kind: layers-of, stack: blocks}` takes a teacher's."""
    words: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    """One for each class."""
    adapter: Width = 64
    """Hidden units of the adapter."""


class GFL(NetworkKind):
    """A small object detector that looks at every place of one grid (Li et al. 2020, arXiv:2006.04388)."""

    kind: Literal["gfl"] = "gfl"
    builds = "stillhouse.networks.gfl:GFL"
    pretraining: ClassVar[dict[str, Any]] = {
        "kind": "match",
        "terms": [{"signal": "labels", "by": "dense_detection"}],
    }
    width: Width = 32
    """Channels of every layer."""
    layers: Annotated[int, Field(ge=0)] = 2
    """Convolutions on the grid, after those that halve the image until it has the grid's size."""
    stride: Literal[2, 4, 8, 16, 32] = 4
    """Pixels of the image to a cell of the grid, each way."""
    reach: Annotated[int, Field(gt=0)] = 8
    """The farthest that a box may reach from a cell's middle, in cells."""
