"""Classifiers of images and sound, and object detectors, of Hugging Face Transformers."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    PreTrainedModel,
)

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.networks.encoders import quiet
from stillhouse.networks.hf import advised, source_of
from stillhouse.networks.pretrained_kinds import HFAudio, HFDetector, HFImage, HFKind


def hf_image(kind: HFImage, facts: Facts) -> PreTrainedModel:
    """The image classifier in `kind.path`, in fp32. Input [B, C, H, W].

    Raises StillhouseError where the data is no images, or of another size or number of channels than the model
    says it reads; and as `_loaded`.
    """
    if len(facts.shape) != 3:
        raise StillhouseError(f"network {kind.word!r} reads images [C, H, W], and the data has shape {facts.shape}")
    network = _loaded(AutoModelForImageClassification, kind, facts)
    channels, size = (getattr(network.config, name, None) for name in ("num_channels", "image_size"))
    reads = (size, size) if isinstance(size, int) else None if size is None else tuple(size)
    if channels not in (None, facts.shape[0]) or reads not in (None, facts.shape[1:]):
        raise StillhouseError(
            f"network {kind.path!r} reads images of {channels} channels and size {reads}, and the data gives "
            f"{facts.shape[0]} and {facts.shape[1:]}: set the data's size (image-folder has one), or take another model"
        )
    return network


def hf_detector(kind: HFDetector, facts: Facts) -> PreTrainedModel:
    """The object detector in `kind.path`, in fp32. Input [B, 3, H, W]; output `logits` and `pred_boxes`.

    Raises StillhouseError where the data is not for detection, or not in colour; and as `_loaded`.
    """
    if facts.task != "detection":
        raise StillhouseError(f"network {kind.word!r} finds objects, and the data is for {facts.task}")
    network = _loaded(AutoModelForObjectDetection, kind, facts)
    channels = getattr(network.config, "num_channels", 3)
    if channels != facts.shape[0]:
        raise StillhouseError(
            f"network {kind.path!r} reads images of {channels} channels, and the data gives {facts.shape[0]}: "
            "set the data's `grey`, or take another model"
        )
    return network


def hf_audio(kind: HFAudio, facts: Facts) -> PreTrainedModel:
    """The audio classifier in `kind.path`, in fp32. Input [B, samples].

    Raises StillhouseError where the data is no row of samples; and as `_loaded`.
    """
    if len(facts.shape) != 1:
        raise StillhouseError(f"network {kind.word!r} reads sound [samples], and the data has shape {facts.shape}")
    return _loaded(AutoModelForAudioClassification, kind, facts)


def _loaded(auto: Any, kind: HFKind, facts: Facts) -> PreTrainedModel:
    """The model with its own weights, read from safetensors, and a head of the data's classes.

    Raises StillhouseError where the model is missing, cannot be reached, has no safetensors weights, or wants to run
    code of its own.
    """
    where, options = source_of(kind)
    try:
        config = AutoConfig.from_pretrained(where, **options)
        config.num_labels = facts.classes
        with quiet():
            return auto.from_pretrained(
                where, config=config, use_safetensors=True, dtype="float32", ignore_mismatched_sizes=True, **options
            )
    except (OSError, ValueError, ImportError) as error:
        raise StillhouseError(f"network.path: cannot load {kind.path!r}: {advised(error)}") from error
