"""Text encoders, and weights taken from a deeper one. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from stillhouse.kinds import AnyKind
from stillhouse.networks.kinds import FromTeacher, NetworkKind, Trained, WeightsKind, Width

Count = Annotated[int, Field(gt=0)]
Head = Literal["masked-lm", "classifier", "tokens", "none"]


class EncoderKind(NetworkKind):
    """A text encoder with a head for what it is to answer."""

    needs: ClassVar[str] = "language"
    head: Head = "classifier"
    """`masked-lm`: a token at each position; `classifier`: a class of the whole; `tokens`: a class at each position;
    `none`: the last layer's states alone."""


class Bert(EncoderKind):
    """A small BERT (Devlin et al. 2019, arXiv:1810.04805) over the vocabulary of the data."""

    kind: Literal["bert"] = "bert"
    builds = "stillhouse.networks.encoders:bert"
    width: Width = 64
    """Of the residual stream; the feed-forward layers are four times as wide."""
    layers: Count = 2
    heads: Count = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of hidden states and attention."""
    pool: Literal["first", "mean"] = "first"
    """What a `classifier` answers from: the first token's state through BERT's pooler, or the mean of the last layer's
    states over the tokens that are no padding, which a small model learns sooner."""

    @model_validator(mode="after")
    def _fits_together(self) -> Bert:
        if self.pool == "mean" and self.head != "classifier":
            raise ValueError(f"pool 'mean' is for head 'classifier', not for {self.head!r}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not split into {self.heads} heads")
        return self


class HFEncoder(EncoderKind):
    """A text encoder in the Hugging Face layout, with its weights, from safetensors only.

    A head that the files lack starts anew. A `weights` beside it may replace its own.
    """

    kind: Literal["hf-encoder"] = "hf-encoder"
    builds = "stillhouse.networks.encoders:hf_encoder"
    path: Annotated[str, Field(min_length=1)]
    """A folder (relative to --root), `package:name/folder` for one inside an installed Python package, or
    `hub:owner/name`, downloaded from the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run the Python code that the model brings along: only for a model whose authors you trust."""
    layers: Count | None = None
    """The first so many of its layers; None keeps all."""


class StaticEmbedding(NetworkKind):
    """A vector for each token of the vocabulary and nothing else; a text is read as their mean.

    As in Model2Vec and the static models of Sentence Transformers. `weights: {kind: layers-of, layers: []}` starts
    from a BERT's own vectors.
    """

    kind: Literal["static-embedding"] = "static-embedding"
    builds = "stillhouse.networks.encoders:StaticEmbedding"
    needs: ClassVar[str] = "language"
    width: Width = 64


class LayersOf(WeightsKind):
    """The weights of a deeper network, some of its layers left out (DistilBERT, Sanh et al. 2019, arXiv:1910.01108).

    What this network has and the other lacks, such as a new head, keeps its own start; what it lacks is dropped.
    """

    kind: Literal["layers-of"] = "layers-of"
    of: Annotated[WeightsKind, AnyKind("weights")] = FromTeacher()
    """The deeper network's weights: the teacher's, a stage's or a file's."""
    layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Numbers of the layers that are kept, from 0, in order; None keeps all."""
    stack: str = "encoder.layer"
    """The list of layers, as its parameters' names have it before the number."""

    @field_validator("of")
    @classmethod
    def _there_already(cls, of: WeightsKind) -> WeightsKind:
        if isinstance(of, Trained | LayersOf):
            raise ValueError(f"layers are taken of weights that are there already, not of {of.word!r}: use a stage")
        return of
