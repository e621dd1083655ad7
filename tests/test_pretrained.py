"""Image and audio classifiers in the Hugging Face layout, made on the spot and loaded from a folder."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.networks.pretrained_kinds import HFAudio, HFImage, Timm
from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe

DIGITS = Facts("classification", (1, 8, 8), classes=10)


def saved(folder: Path, labels: int = 10) -> tuple[Path, PreTrainedModel]:
    config = ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, num_labels=labels,
    )  # fmt: skip
    torch.manual_seed(0)
    model = ViTForImageClassification(config)
    model.save_pretrained(folder)
    return folder, model


def test_an_image_classifier_comes_with_its_weights(tmp_path: Path) -> None:
    folder, model = saved(tmp_path / "vit")
    loaded = HFImage(path=str(folder)).build(DIGITS)
    image = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(loaded.eval()(image).logits, model.eval()(image).logits)


def test_another_number_of_classes_gets_a_new_head(tmp_path: Path) -> None:
    folder, model = saved(tmp_path / "vit", labels=3)
    loaded = HFImage(path=str(folder)).build(DIGITS)
    assert loaded(torch.rand(2, 1, 8, 8)).logits.shape == (2, 10)
    own, theirs = loaded.state_dict(), model.state_dict()
    body = [name for name in theirs if not name.startswith("classifier")]
    assert all(torch.equal(own[name], theirs[name]) for name in body)


def test_images_that_it_does_not_read_are_told(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "vit")
    with pytest.raises(StillhouseError, match=r"reads images of 1 channels and size \(8, 8\)"):
        HFImage(path=str(folder)).build(Facts("classification", (3, 32, 32), classes=10))
    with pytest.raises(StillhouseError, match="reads images"):
        HFImage(path=str(folder)).build(Facts("classification", (64,), classes=10))
    with pytest.raises(StillhouseError, match="there is no folder"):
        HFImage(path=str(tmp_path / "none")).build(DIGITS)
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(StillhouseError, match="only safetensors weights are read"):
        HFImage(path=str(folder)).build(DIGITS)


def test_one_teaches_a_network_by_its_features(tmp_path: Path) -> None:
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10
    )
    ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    terms = [
        {"by": "kl"},
        {"by": "attention_transfer", "signal": "features.bn3", "teacher_signal": "features.resnet.encoder.stages.1"},
    ]
    recipe = Recipe.model_validate(
        {
            "name": "hf",
            "data": "digits",
            "teacher": {"network": {"kind": "hf-image", "path": str(tmp_path / "resnet")}},
            "student": {"network": {"kind": "convnet", "width": 4}},
            "method": {"kind": "match", "terms": terms},
            "train": {"steps": 2, "batch_size": 8},
            "evaluate": ["accuracy", "agreement", "cost"],
            "control": False,
        }
    )
    run = distill(recipe, out=tmp_path / "run", progress=False, check=False)  # untrained: the check would refuse it
    assert set(run.summary["arms"]) == {"teacher", "student"}


def test_an_audio_classifier_learns_to_tell_tones(tmp_path: Path) -> None:
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8, 8],
        conv_stride=[4, 4], conv_kernel=[8, 8], num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, classifier_proj_size=8, num_labels=2, apply_spec_augment=False,
    )  # fmt: skip
    torch.manual_seed(0)
    Wav2Vec2ForSequenceClassification(config).save_pretrained(tmp_path / "audio")
    y = torch.arange(60) % 2
    time = torch.arange(256) / 256
    tones = torch.sin(2 * math.pi * (8 + 40 * y[:, None]) * time + torch.rand(60, 1))
    arrays = {"train_x": tones, "train_y": y, "test_x": tones[:20] + 0.01, "test_y": y[:20].clone()}
    save_file(arrays, tmp_path / "tones.safetensors")
    recipe = Recipe.model_validate(
        {
            "name": "audio",
            "data": {"kind": "tensors", "path": str(tmp_path / "tones.safetensors")},
            "student": {"network": {"kind": "hf-audio", "path": str(tmp_path / "audio")}},
            "method": {"kind": "match", "terms": [{"signal": "labels", "by": "cross_entropy"}]},
            "train": {"steps": 40, "batch_size": 18, "optimizer": {"kind": "adamw", "lr": 1e-2}},
            "evaluate": ["accuracy"],
            "control": False,
        }
    )
    run = distill(recipe, out=tmp_path / "run", progress=False)
    assert run.summary["arms"]["student"]["accuracy"] > 0.8
    assert (run.folder / "student" / "config.json").is_file()


def test_sound_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(StillhouseError, match=r"reads sound \[samples\]"):
        HFAudio(path=str(tmp_path)).build(DIGITS)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_timm_says_what_is_missing() -> None:
    with pytest.raises(StillhouseError, match=r"stillhouse\[timm\]"):
        Timm(name="resnet18").build(DIGITS)
