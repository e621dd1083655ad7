"""Data of one's own: folders of images, and arrays in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import save_file

from stillhouse.engine.contracts import Data
from stillhouse.errors import StillhouseError
from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe
from stillhouse.sources.kinds import AudioFolder, ImageFolder, Tensors

SHADES = {"dark": 30, "light": 220}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))


def paint(folder: Path, count: int, size: tuple[int, int] = (6, 6)) -> None:
    """PNG and JPEG files of one shade, a folder a class."""
    for name, shade in SHADES.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            ending = "png" if number % 2 else "jpg"
            Image.new("RGB", size, (shade, shade, shade)).save(folder / name / f"{number}.{ending}")


def rows(data: Data) -> list[int]:
    return [len(data.train), len(data.validation), len(data.test)]


def everything(split: object) -> dict[str, torch.Tensor]:
    return split.fetch(torch.arange(len(split)), None)  # type: ignore[attr-defined]


def test_folders_are_split_by_class_and_keep_their_pixels(tmp_path: Path) -> None:
    paint(tmp_path / "shades", 10)
    data = ImageFolder(path=str(tmp_path / "shades")).build()
    assert rows(data) == [14, 2, 4]
    assert data.facts.names == ("dark", "light")
    assert data.facts.shape == (3, 6, 6)
    for split in (data.train, data.validation, data.test):
        batch = everything(split)
        wanted = torch.tensor([30, 220])[batch["labels"]] / 255
        assert (batch["image"] - wanted.view(-1, 1, 1, 1)).abs().max() < 2 / 255
    again = ImageFolder(path=str(tmp_path / "shades")).build()
    assert again.train.fingerprint == data.train.fingerprint


def test_a_test_folder_is_the_test_split(tmp_path: Path) -> None:
    paint(tmp_path / "shades" / "train", 10)
    paint(tmp_path / "shades" / "test", 3, size=(9, 12))
    data = ImageFolder(path=str(tmp_path / "shades"), size=6, grey=True).build()
    assert rows(data) == [18, 2, 6]
    assert data.facts.shape == (1, 6, 6)


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    paint(tmp_path / "shades", 4)
    Image.new("RGB", (4, 9)).save(tmp_path / "shades" / "dark" / "odd.png")
    with pytest.raises(StillhouseError, match="all must have one size"):
        ImageFolder(path=str(tmp_path / "shades")).build()
    assert ImageFolder(path=str(tmp_path / "shades"), size=5).build().facts.shape == (3, 5, 5)


def test_folders_that_cannot_serve_are_told(tmp_path: Path) -> None:
    with pytest.raises(StillhouseError, match="there is no folder"):
        ImageFolder(path=str(tmp_path / "none")).build()
    (tmp_path / "one" / "class").mkdir(parents=True)
    with pytest.raises(StillhouseError, match="holds 1 folders"):
        ImageFolder(path=str(tmp_path / "one")).build()
    (tmp_path / "one" / "other").mkdir()
    with pytest.raises(StillhouseError, match="holds no images"):
        ImageFolder(path=str(tmp_path / "one")).build()
    paint(tmp_path / "few", 2)
    with pytest.raises(StillhouseError, match="too few images for three splits"):
        ImageFolder(path=str(tmp_path / "few")).build()
    (tmp_path / "few" / "dark" / "broken.png").write_bytes(b"no image")
    paint(tmp_path / "more", 4)
    (tmp_path / "more" / "dark" / "broken.png").write_bytes(b"no image")
    with pytest.raises(StillhouseError, match=r"broken\.png: the image cannot be decoded"):
        ImageFolder(path=str(tmp_path / "more")).build()


def arrays(count: int = 30) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 3
    x = torch.randn(count, 5, generator=rng) + y[:, None]
    return {"train_x": x, "train_y": y, "test_x": x[:9] + 0.1, "test_y": y[:9].clone()}


def test_arrays_are_served_from_both_formats(tmp_path: Path) -> None:
    given = arrays()
    save_file(given, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", allow_pickle=False, **{name: value.numpy() for name, value in given.items()})
    one, other = (Tensors(path=str(tmp_path / f"a.{e}")).build() for e in ("safetensors", "npz"))
    assert rows(one) == [27, 3, 9]
    assert one.facts.classes == 3
    assert one.train.fingerprint == other.train.fingerprint
    assert torch.equal(everything(one.test)["features"], given["test_x"])
    both = torch.cat([everything(one.train)["features"], everything(one.validation)["features"]])
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, given["train_x"].tolist()))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"test_x": None}, "no array 'test_x'"),
        ({"train_y": torch.arange(29)}, "is needed"),
        ({"train_y": torch.arange(30).float()}, "one class an example"),
        ({"test_x": torch.zeros(9, 4)}, r"shape \[5\] and labels \[\], those of test \[4\]"),
        ({"train_x": torch.full((30, 5), float("nan"))}, "not finite"),
    ],
)
def test_arrays_that_do_not_fit_are_told(tmp_path: Path, change: dict[str, torch.Tensor | None], told: str) -> None:
    given = {name: value for name, value in (arrays() | change).items() if value is not None}
    save_file(given, tmp_path / "a.safetensors")
    with pytest.raises(StillhouseError, match=told):
        Tensors(path=str(tmp_path / "a.safetensors")).build()


def test_a_file_with_objects_is_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(StillhouseError, match="arrays alone"):
        Tensors(path=str(tmp_path / "a.npz")).build()


def test_a_run_on_arrays(tmp_path: Path) -> None:
    save_file(arrays(), tmp_path / "a.safetensors")
    recipe = Recipe.model_validate(
        {
            "name": "own",
            "data": {"kind": "tensors", "path": str(tmp_path / "a.safetensors"), "names": ["a", "b", "c"]},
            "student": {"network": {"kind": "mlp", "hidden": [8]}},
            "method": {"kind": "match", "terms": [{"signal": "labels", "by": "cross_entropy"}]},
            "train": {"steps": 60, "batch_size": 9, "optimizer": {"kind": "adamw", "lr": 1e-2}},
            "evaluate": ["accuracy"],
            "control": False,
        }
    )
    run = distill(recipe, out=tmp_path / "run", progress=False)
    assert run.summary["arms"]["student"]["accuracy"] > 0.5


def several(count: int = 120) -> dict[str, torch.Tensor]:
    """Four noisy sums of five numbers; each label says whether one of them is positive."""
    rng = torch.Generator().manual_seed(1)
    x, mix = torch.randn(count, 5, generator=rng), torch.randn(5, 4, generator=rng)
    y = (x @ mix + 0.3 * torch.randn(count, 4, generator=rng) > 0).float()
    return {"train_x": x[:80], "train_y": y[:80], "test_x": x[80:].clone(), "test_y": y[80:].clone()}


SEVERAL = {
    "name": "several",
    "teacher": {
        "network": {"kind": "mlp", "hidden": [32]},
        "weights": {
            "kind": "trained",
            "steps": 120,
            "optimizer": {"kind": "adamw", "lr": 1e-2},
            "method": {"kind": "match", "terms": [{"signal": "labels", "by": "binary_cross_entropy"}]},
        },
    },
    "student": {"network": {"kind": "mlp"}},
    "method": {
        "kind": "match",
        "terms": [{"by": "binary_kl"}, {"signal": "labels", "by": "binary_cross_entropy", "weight": 0.5}],
    },
    "train": {"steps": 80, "batch_size": 36, "optimizer": {"kind": "adamw", "lr": 2e-2}},
    "evaluate": ["multi-label", "cost"],
}


def test_examples_with_several_labels_are_distilled(tmp_path: Path) -> None:
    given = several()
    save_file(given, tmp_path / "a.safetensors")
    data = {"kind": "tensors", "path": str(tmp_path / "a.safetensors"), "names": ["a", "b", "c", "d"]}
    run = distill(Recipe.model_validate(SEVERAL | {"data": data}), out=tmp_path / "run", progress=False)
    arms = run.summary["arms"]
    chance = float(given["test_y"].mean())
    assert min(arms[name]["mean_average_precision"] for name in arms) > chance + 0.15
    assert 0.7 < arms["student"]["label_agreement"] <= 1
    assert "label_agreement" not in arms["teacher"]
    assert run.summary["effect"]["label_agreement"]["difference"] == pytest.approx(
        arms["student"]["label_agreement"] - arms["control"]["label_agreement"]
    )


def test_one_class_losses_are_refused_on_several_labels(tmp_path: Path) -> None:
    save_file(several(), tmp_path / "a.safetensors")
    recipe = SEVERAL | {"data": {"kind": "tensors", "path": str(tmp_path / "a.safetensors")}}
    recipe["teacher"] = {"network": {"kind": "mlp"}, "weights": {"kind": "trained", "steps": 2}}
    with pytest.raises(StillhouseError, match=r"teacher: terms: an example has several labels.*weights\.method"):
        distill(Recipe.model_validate(recipe), out=tmp_path / "run", progress=False)
    save_file(several() | {"test_y": torch.full((40, 4), 0.5)}, tmp_path / "a.safetensors")
    with pytest.raises(StillhouseError, match="zeros and ones"):
        Tensors(path=str(tmp_path / "a.safetensors")).build()


def play(folder: Path, count: int, rate: int = 800, seconds: float = 0.5) -> None:
    """Files with a tone of 50 Hz or 150 Hz, a folder each, at half loudness; every other one in two channels."""
    for hertz in (50, 150):
        (folder / str(hertz)).mkdir(parents=True)
        time = np.arange(round(rate * seconds)) / rate
        for number in range(count):
            tone = 0.5 * np.sin(2 * np.pi * hertz * time)
            stereo = np.stack([tone, tone], 1) if number % 2 else tone
            soundfile.write(folder / str(hertz) / f"{number}.{'flac' if number % 3 else 'wav'}", stereo, rate)


def test_sounds_come_at_the_rate_and_length_that_is_asked(tmp_path: Path) -> None:
    play(tmp_path / "tones", 6, rate=1600)
    data = AudioFolder(path=str(tmp_path / "tones"), rate=800, seconds=0.75).build()
    assert (data.facts.names, data.facts.shape, rows(data)) == (("150", "50"), (600,), [8, 2, 2])
    batch = everything(data.train)
    heard, time = batch["features"], np.arange(400) / 800
    assert not heard[:, 400:].any(), "half a second, then silence"
    for row, label in zip(heard, batch["labels"], strict=True):
        tone = 0.5 * np.sin(2 * np.pi * (150, 50)[int(label)] * time)
        assert np.abs(row[50:350].numpy() - tone[50:350]).max() < 0.01, "the tone survives the lower rate"
    again = AudioFolder(path=str(tmp_path / "tones"), rate=800, seconds=0.75).build()
    assert again.train.fingerprint == data.train.fingerprint
    shorter = AudioFolder(path=str(tmp_path / "tones"), rate=800, seconds=0.5).build()
    assert shorter.train.fingerprint != data.train.fingerprint


def test_sounds_teach_a_student(tmp_path: Path) -> None:
    for split in ("train", "test"):
        play(tmp_path / "tones" / split, 12)
    recipe = Recipe.model_validate(
        {
            "name": "tones",
            "data": {"kind": "audio-folder", "path": str(tmp_path / "tones"), "rate": 800, "seconds": 0.25},
            "teacher": {
                "network": {"kind": "mlp", "hidden": [16]},
                "weights": {
                    "kind": "trained",
                    "steps": 30,
                    "batch_size": 8,
                    "optimizer": {"kind": "adamw", "lr": 1e-2},
                },
            },
            "student": {"network": {"kind": "mlp", "hidden": [4]}},
            "method": {"kind": "match", "terms": [{"by": "kl"}]},
            "train": {"steps": 40, "batch_size": 8, "optimizer": {"kind": "adamw", "lr": 1e-2}},
            "evaluate": ["accuracy"],
        }
    )
    run = distill(recipe, out=tmp_path / "run", progress=False)
    assert run.summary["arms"]["student"]["accuracy"] == 1.0


def test_files_that_are_no_sounds_are_told(tmp_path: Path) -> None:
    play(tmp_path / "tones", 4)
    (tmp_path / "tones" / "50" / "9.wav").write_bytes(b"RIFF and no more")
    with pytest.raises(StillhouseError, match=r"9\.wav: the sound cannot be decoded"):
        AudioFolder(path=str(tmp_path / "tones")).build()
    (tmp_path / "none" / "a").mkdir(parents=True)
    (tmp_path / "none" / "b").mkdir()
    with pytest.raises(StillhouseError, match=r"holds no sounds \(files ending in \.aiff"):
        AudioFolder(path=str(tmp_path / "none")).build()
