"""The networks and weights a recipe may name. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from stillhouse.engine.settings import Positive, Train
from stillhouse.kinds import AnyKind, Kind
from stillhouse.sources.kinds import DataKind

Width = Annotated[int, Field(gt=0)]


class NetworkKind(Kind):
    """A network: `build(facts)` gives an `nn.Module` fitted to the data's shape and classes."""

    family: ClassVar[str] = "network"
    pretraining: ClassVar[dict[str, Any]] = {
        "kind": "match",
        "terms": [{"signal": "labels", "by": "cross_entropy"}],
    }
    """The method, in a recipe's words, that trains such a network on the data alone."""


class ConvNet(NetworkKind):
    """Three convolutions with batch norm and a linear head, for small images."""

    kind: Literal["convnet"] = "convnet"
    builds = "stillhouse.networks.convnet:ConvNet"
    width: Width = 8
    """Channels of the first convolution; doubled twice."""


class MLP(NetworkKind):
    """A multilayer perceptron on the flattened input; without hidden layers, a linear classifier."""

    kind: Literal["mlp"] = "mlp"
    builds = "stillhouse.networks.mlp:MLP"
    hidden: list[Width] = []
    """Width of each hidden layer."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of hidden units dropped in training."""


class Slimmable(NetworkKind):
    """A multilayer perceptron that can be run with the first units of each hidden layer alX weights).

    Yu et al. 2019 (slimmable networks, arXiv:1812.08928), with one share at a time.
    """

    kind: Literal["slimmable"] = "slimmable"
    builds = "stillhouse.networks.slimmable:Slimmable"
    hidden: Annotated[list[Width], Field(min_length=1)]
    """Width of each hidden layer at full size."""


class GaussianProcess(NetworkKind):
    """A Gaussian process with a squared-exponential kernel, for tables; method `gaussian` fits it in closed form."""

    kind: Literal["gp"] = "gp"
    builds = "stillhouse.networks.gp:GaussianProcess"
    pretraining: ClassVar[dict[str, Any]] = {"kind": "gaussian"}
    points: Annotated[int, Field(gt=0)]
    """Room for so many: the training rows, once for each time that it is fitted on top of what it knew."""
    lengthscale: Positive = 1.0
    """Of the standardised features."""
    amplitude: Positive = 1.0
    """Standard deviation of the function before anything was seen."""
    noise: Positive = 0.1
    """Variance of a target around the function, which fitting assumes."""


class ResNet(NetworkKind):
    """The CIFAR residual network of He et al. 2015 (arXiv:1512.03385), with option-A shortcuts.

    Parameter names are the usual ones: conv1, bn1, layer1 to layer3, linear.
    """

    kind: Literal["resnet"] = "resnet"
    builds = "stillhouse.networks.resnet:ResNet"
    depth: Annotated[int, Field(ge=8)] = 20
    """6 n + 2 layers."""
    width: Width = 16
    """Channels of the first stage; doubled at the second and the third."""

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, depth: int) -> int:
        if depth % 6 != 2:
            below = depth - (depth - 2) % 6
            raise ValueError(f"a CIFAR ResNet has 6 n + 2 layers: {below} or {below + 6}, not {depth}")
        return depth


class ViT(NetworkKind):
    """A small vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), for images that split into patches.

    Signals beside `logits`: `tokens`, `embedding`, `prefix`, `patches`, `map`, with a distillation token
    `distillation_logits`, and taps on `blocks.<i>` and `blocks.<i>.attention.query`, `.key`, `.value`, `.softmax`.
    """

    kind: Literal["vit"] = "vit"
    builds = "stillhouse.networks.vit:ViT"
    patch: Width = 2
    """Height and width of a patch in pixels."""
    width: Width = 48
    depth: Annotated[int, Field(gt=0)] = 4
    """Blocks."""
    heads: Annotated[int, Field(gt=0)] = 4
    ratio: Positive = 2.0
    """Width of the perceptrons between, as a multiple of `width`."""
    distillation: bool = False
    """A second token with a head of its own (Touvron et al. 2021, DeiT, arXiv:2012.12877)."""

    @model_validator(mode="after")
    def _whole_heads(self) -> ViT:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not split into {self.heads} heads of one width")
        return self


class FCN(NetworkKind):
    """A small fully convolutional network: a class for every pixel of a small image."""

    kind: Literal["fcn"] = "fcn"
    builds = "stillhouse.networks.fcn:fcn"
    width: Width = 16
    """Channels of every layer."""
    layers: Annotated[int, Field(gt=0)] = 3
    """3 x 3 convolutions, so that a pixel sees `layers` pixels each way."""


class Trees(NetworkKind):
    """Gradient-boosted trees or a random forest, fitted by scikit-learn: `weights: fitted`. A teacher, no student."""

    kind: Literal["trees"] = "trees"
    builds = "stillhouse.networks.trees:Trees"
    style: Literal["boosted", "forest"] = "boosted"
    trees: Annotated[int, Field(gt=0, le=10_000)] = 100
    """Of a forest, or rounds of boosting with a tree for each class."""
    depth: Annotated[int, Field(gt=0, le=14)] = 3
    learning_rate: Positive = 0.1
    """Of boosting."""
    subsample: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the examples that a round of boosting sees."""
    least: Annotated[float, Field(gt=0, lt=0.1)] = 1e-4
    """Least probability a forest gives a class, so that its logarithm is finite."""


class Subclassed(NetworkKind):
    """Another network with several outputs a class, whose probabilities are added up: `logits`, `subclass_logits`."""

    kind: Literal["subclassed"] = "subclassed"
    builds = "stillhouse.networks.subclassed:Subclassed"
    of: Annotated[NetworkKind, AnyKind("network")]
    """The network, which gives logits alone."""
    subclasses: Annotated[int, Field(gt=1)] = 4
    """Outputs a class."""


class Llama(NetworkKind):
    """A small `LlamaForCausalLM` (Touvron et al. 2023, arXiv:2302.13971) over the vocabulary of the data."""

    kind: Literal["llama"] = "llama"
    builds = "stillhouse.networks.hf:llama"
    needs: ClassVar[str] = "language"
    width: Width = 64
    """Of the residual stream; the feed-forward layers are 8/3 as wide, rounded up to a multiple of 16."""
    layers: Annotated[int, Field(gt=0)] = 2
    heads: Annotated[int, Field(gt=0)] = 4

    @model_validator(mode="after")
    def _even_heads(self) -> Llama:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} does not split into {self.heads} heads of even width, as rotary positions need"
            )
        return self


class CausalLM(NetworkKind):
    """A causal language model in the Hugging Face layout, with its weights, from safetensors only.

    Its own weights are where it starts; a `weights` beside it may replace them.
    """

    kind: Literal["hf-causal-lm"] = "hf-causal-lm"
    builds = "stillhouse.networks.hf:causal_lm"
    needs: ClassVar[str] = "language"
    path: Annotated[str, Field(min_length=1)]
    """A folder (relative to --root), or `hub:owner/name`, downloaded from the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run the Python code that the model brings along: only for a model whose authors you trust."""
    width: Literal["own", "data"] = "own"
    """`data` cuts or pads the vocabulary to the tokenizer's, where a model carries spare rows."""


class Denoiser(NetworkKind):
    """A denoiser conditioned on noise level and class, preconditioned as in Karras et al. 2022 (arXiv:2206.00364).

    A residual multilayer perceptron on the flattened image: for small images of one size.
    """

    kind: Literal["denoiser"] = "denoiser"
    builds = "stillhouse.networks.denoiser:Denoiser"
    pretraining: ClassVar[dict[str, Any]] = {"kind": "denoise"}
    width: Width = 256
    """Of the residual stream."""
    blocks: Annotated[int, Field(gt=0)] = 2
    """Of two layers each."""
    sigma_data: Positive = 0.5
    """Standard deviation of the data as the view shows it."""


class PairDenoiser(Denoiser):
    """A denoiser of two images side by side (data of kind `panels`), which may be shown the first of them."""

    kind: Literal["pair-denoiser"] = "pair-denoiser"
    builds = "stillhouse.networks.pair_denoiser:PairDenoiser"


class SamplerKind(Kind):
    """How a generator turns noise into samples.

    `build(denoiser)` gives a callable `(noise, labels, rng) -> samples` with an attribute `calls`, its network calls.
    """

    family: ClassVar[str] = "sampler"


class OneStep(SamplerKind):
    """One network call: the denoiser's answer to noise of one level."""

    kind: Literal["one-step"] = "one-step"
    builds = "stillhouse.networks.samplers:OneStep"
    sigma: Positive = 80.0
    """That level. 80 is where diffusion starts; Zhou et al. 2024 (arXiv:2404.04057) train generators at 2.5."""


class Heun(SamplerKind):
    """Algorithm 1 of Karras et al. 2022 (arXiv:2206.00364): 2 steps - 1 network calls."""

    kind: Literal["heun"] = "heun"
    builds = "stillhouse.networks.samplers:Heun"
    steps: Annotated[int, Field(ge=1, le=1000)] = 18
    """Noise levels above zero."""
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0


class WeightsKind(Kind):
    """Where a network's weights come from."""

    family: ClassVar[str] = "weights"


class Random(WeightsKind):
    """The network's own beginning: random from the run's seed, or the weights that it brings along."""

    kind: Literal["random"] = "random"


class File(WeightsKind):
    """A safetensors file, or a state dict saved by torch when its name is given with `pickle: allow`."""

    kind: Literal["file"] = "file"
    path: str
    """Resolved against the folder given with `--root`, else the current folder."""
    pickle: Literal["refuse", "allow"] = "refuse"
    """`allow` reads a foreign .pt file with torch.load(weights_only=True)."""


class Trained(WeightsKind, Train):
    """Trained by a stage of its own before the student's, on the labels (or text, or images) of the data."""

    kind: Literal["trained"] = "trained"
    start: Annotated[WeightsKind, AnyKind("weights")] = Random()
    """The weights that stage starts from."""
    data: Annotated[DataKind, AnyKind("data")] | None = None
    """What that stage trains on; None: the recipe's own data."""
    method: Annotated[Kind, AnyKind("method")] | None = None
    """How; None: cross-entropy on the labels, or what else such a network is usually trained by."""


class Fitted(WeightsKind):
    """Fitted at once and without a stage: for a `trees` network, or an `mlp` without hidden layers, which logistic
    regression gives its weights (scikit-learn does both), and for `nearest-example`, which keeps the examples."""

    kind: Literal["fitted"] = "fitted"
    data: Annotated[DataKind, AnyKind("data")] | None = None
    """What it is fitted to, the training split as it is; None: the recipe's own data."""


class FromStage(WeightsKind):
    """The weights an earlier stage handed over: a student that becomes a teacher."""

    kind: Literal["stage"] = "stage"
    stage: str
    """Name of that stage."""


class FromTeacher(WeightsKind):
    """A copy of the teacher's weights."""

    kind: Literal["teacher"] = "teacher"
