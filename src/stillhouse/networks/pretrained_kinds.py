"""Classifiers of images and sound, and object detectors, of other libraries, with the weights they bring.

Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from stillhouse.networks.kinds import NetworkKind


class HFKind(NetworkKind):
    """What is loaded in the Hugging Face layout, from safetensors only.

    A head for another number of classes than the data's starts anew. A `weights` beside it may replace its own.
    """

    needs: ClassVar[str] = "language"
    path: Annotated[str, Field(min_length=1)]
    """A folder (relative to --root), or `hub:owner/name`, downloaded from the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run the Python code that the model brings along: only for a model whose authors you trust."""


class HFImage(HFKind):
    """An image classifier; images must come in the size it reads, normalised by the view as it was trained."""

    kind: Literal["hf-image"] = "hf-image"
    builds = "stillhouse.networks.pretrained:hf_image"


class HFDetector(HFKind):
    """An object detector that answers with a set of boxes (YOLOS, DETR and theirs); the term is `set_detection`."""

    kind: Literal["hf-detector"] = "hf-detector"
    builds = "stillhouse.networks.pretrained:hf_detector"
    pretraining: ClassVar[dict[str, Any]] = {"kind": "match", "terms": [{"signal": "labels", "by": "set_detection"}]}


class HFAudio(HFKind):
    """A classifier of raw sound [B, samples], at the rate it was trained on: data of kind `audio-folder`."""

    kind: Literal["hf-audio"] = "hf-audio"
    builds = "stillhouse.networks.pretrained:hf_audio"


class Timm(NetworkKind):
    """A model of timm (PyTorch Image Models), by its name, with a head for the data's classes."""

    kind: Literal["timm"] = "timm"
    builds = "stillhouse.networks.timm_models:timm_model"
    needs: ClassVar[str] = "timm"
    name: Annotated[str, Field(min_length=1)]
    """As in timm.list_models()."""
    pretrained: bool = False
    """Download timm's weights for it; a `weights: {kind: file, ...}` beside it needs no connection."""
