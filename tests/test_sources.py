"""Digits and images from Parquet: the splits, the augmentation, and a cache that outlives its builders."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits
from torch import Tensor

from stillhouse.engine.contracts import Data, Source
from stillhouse.errors import StillhouseError
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.kinds import Digits, ImageParquet
from stillhouse.sources.splits import by_class


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def everything(source: Source) -> dict[str, Tensor]:
    return source.fetch(torch.arange(len(source)), None)


# The digits


@pytest.fixture(scope="module")
def digits() -> Data:
    return Digits().build()


def test_digits_are_all_there_once(digits: Data) -> None:
    splits = [everything(split) for split in (digits.train, digits.validation, digits.test)]
    together = torch.cat([split["image"] for split in splits]).flatten(1) * 16
    labels = torch.cat([split["labels"] for split in splits])
    rows = torch.cat([together, labels[:, None]], 1).numpy()
    pixels, classes = load_digits(return_X_y=True)
    wanted = np.concatenate([pixels, np.asarray(classes)[:, None]], 1)
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, wanted.tolist()))


def test_digits_are_split_by_class(digits: Data) -> None:
    assert [len(digits.test), len(digits.validation)] == [450, 269]
    for split, share in ((digits.test, 0.25), (digits.validation, 0.15), (digits.train, 0.6)):
        counts = torch.bincount(everything(split)["labels"], minlength=10)
        whole = torch.bincount(torch.as_tensor(load_digits(return_X_y=True)[1]))
        assert (counts / whole - share).abs().max() < 0.01


def test_digits_are_the_same_every_time(digits: Data) -> None:
    again = Digits().build()
    for ours, theirs in zip((digits.train, digits.test), (again.train, again.test), strict=True):
        assert ours.fingerprint == theirs.fingerprint
        assert torch.equal(everything(ours)["image"], everything(theirs)["image"])
    assert len({digits.train.fingerprint, digits.validation.fingerprint, digits.test.fingerprint}) == 3
    assert Digits(test=0.3).build().test.fingerprint != digits.test.fingerprint


def test_digits_batches_hold_to_the_contract(digits: Data) -> None:
    indices = torch.tensor([5, 0, 5])
    batch = digits.test.fetch(indices, None)
    assert batch["image"].shape == (3, *digits.facts.shape)
    assert batch["image"].dtype == torch.float32
    assert 0 <= batch["image"].min() <= batch["image"].max() <= 1
    assert torch.equal(batch["index"], indices)
    assert torch.equal(batch["image"][0], batch["image"][2])
    whole = everything(digits.test)
    assert torch.equal(batch["labels"], whole["labels"][indices])
    assert torch.equal(batch["image"], whole["image"][indices])


def test_digits_leave_something_to_train_on() -> None:
    with pytest.raises(ValidationError, match="nothing to train on"):
        Digits(test=0.6, validation=0.4)


@pytest.mark.parametrize("limit", [10, 13, 25, 99, 100, 500, 1077])
def test_digits_are_limited_to_so_many_of_each_class_in_proportion(digits: Data, limit: int) -> None:
    limited = everything(Digits(limit=limit).build().train)["labels"]
    assert len(limited) == limit
    shares = torch.bincount(everything(digits.train)["labels"]) * limit / len(digits.train)
    counts = torch.bincount(limited, minlength=10)
    assert (counts - shares).abs().max() < 1
    assert counts.min() >= 1


def test_a_limit_below_one_of_each_class_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 10"):
        Digits(limit=9)


# Splits and augmentation


def test_parts_are_disjoint_and_every_class_is_in_each() -> None:
    labels = torch.tensor([0] * 3 + [1] * 50 + [2] * 7)[torch.randperm(60, generator=generator())]
    parts = by_class(labels, [0.1, 0.2], seed=0)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(60))
    assert all(labels[part].unique().tolist() == [0, 1, 2] for part in parts)
    assert all(torch.equal(part, part.sort().values) for part in parts)
    assert not torch.equal(parts[0], by_class(labels, [0.1, 0.2], seed=1)[0])


def numbered(dtype: torch.dtype = torch.uint8, **options: object) -> ImageArray:
    """100 images [2, 4, 6] whose pixels are all different and not zero."""
    images = (torch.arange(1, 49).view(1, 2, 4, 6) + torch.zeros(100, 1, 1, 1)).to(dtype)
    return ImageArray(images, torch.arange(100) % 3, fingerprint="", **options)  # type: ignore[arg-type]


def every_window(image: Tensor, pad: int) -> list[Tensor]:
    channels, height, width = image.shape
    wide = torch.zeros(channels, height + 2 * pad, width + 2 * pad)
    wide[:, pad : pad + height, pad : pad + width] = image
    steps = range(2 * pad + 1)
    return [wide[:, y : y + height, x : x + width] for y in steps for x in steps]


def test_windows_are_cut_from_the_padded_image_and_each_place_is_taken() -> None:
    source = numbered(torch.float32, pad=1)
    images = source.fetch(torch.arange(100), generator())["image"]
    windows = every_window(source.images[0], 1)
    seen = [next(i for i, window in enumerate(windows) if torch.equal(image, window)) for image in images]
    assert set(seen) == set(range(9))


def test_bytes_are_cut_and_mirrored_as_floats_are() -> None:
    source = numbered(torch.uint8, pad=2, flip=True)
    images = source.fetch(torch.arange(100), generator())["image"]
    plain = [window / 255 for window in every_window(source.images[0].float(), 2)]
    mirrored = [window.flip(-1) for window in plain]
    flipped = 0
    for image in images:
        upright = any(torch.equal(image, window) for window in plain)
        flipped += not upright
        assert upright or any(torch.equal(image, window) for window in mirrored)
    assert 30 < flipped < 70


def test_the_generator_alone_decides_the_augmentation() -> None:
    source, indices = numbered(pad=1, flip=True), torch.arange(100)
    first = source.fetch(indices, generator(1))["image"]
    torch.manual_seed(7)
    assert torch.equal(source.fetch(indices, generator(1))["image"], first)
    assert not torch.equal(source.fetch(indices, generator(2))["image"], first)
    assert torch.equal(source.fetch(indices, None)["image"], source.images / 255)
    assert source.images.max() == 48, "the stored images must not change"


# Images from Parquet files


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def write(file: Path, images: Sequence[bytes | None], labels: list[int], **names: str) -> None:
    image, label = names.get("image", "img"), names.get("label", "label")
    features = {label: {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    struct = arrow.struct({"bytes": arrow.binary(), "path": arrow.string()})
    column = arrow.array([{"bytes": b, "path": None} for b in images], struct)
    table = arrow.table({image: column, label: labels})
    metadata = {"huggingface": '{"info": {"features": ' + str(features).replace("'", '"') + "}}"}
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata(metadata), file)


def pictures(count: int, seed: int, shape: tuple[int, ...] = (5, 4, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    """Twenty training images in two files and four test images."""
    for split, count, seed in (("train-0", 12, 1), ("train-1", 8, 2), ("test", 4, 3)):
        pixels = pictures(count, seed)
        write(tmp_path / "set" / f"{split}.parquet", [encoded(p) for p in pixels], [i % 2 for i in range(count)])
    return tmp_path / "set"


def load(folder: Path, **options: object) -> Data:
    return ImageParquet(path=str(folder), **options).build()  # type: ignore[arg-type]


def test_parquet_images_are_served_as_they_were_encoded(folder: Path) -> None:
    data = load(folder, validation=0.2)
    assert data.facts.shape == (3, 5, 4)
    assert (data.facts.classes, data.facts.names) == (2, ("cat", "dog"))
    assert [len(data.train), len(data.validation), len(data.test)] == [16, 4, 4]
    wanted = torch.from_numpy(np.concatenate([pictures(12, 1), pictures(8, 2)])).permute(0, 3, 1, 2)
    served = torch.cat([everything(data.train)["image"], everything(data.validation)["image"]])
    assert sorted(map(tuple, (served * 255).round().int().flatten(1).tolist())) == sorted(
        map(tuple, wanted.flatten(1).tolist())
    )
    test = everything(data.test)
    torch.testing.assert_close(test["image"] * 255, torch.from_numpy(pictures(4, 3)).permute(0, 3, 1, 2).float())
    assert test["labels"].tolist() == [0, 1, 0, 1]
    assert everything(data.validation)["labels"].bincount().tolist() == [2, 2]


def test_a_data_set_saved_to_disk_is_read_like_its_parquet_files(folder: Path, tmp_path: Path) -> None:
    """The layout of `DatasetDict.save_to_disk`: a folder a split, and in it Arrow streams."""
    for split, files in (("train", ["train-0", "train-1"]), ("test", ["test"])):
        (tmp_path / "saved" / split).mkdir(parents=True)
        for number, name in enumerate(files):
            table = parquet.read_table(folder / f"{name}.parquet")
            target = tmp_path / "saved" / split / f"data-{number:05}-of-{len(files):05}.arrow"
            with arrow.ipc.new_stream(str(target), table.schema) as stream:
                stream.write_table(table, max_chunksize=5)
    one, other = load(folder), load(tmp_path / "saved")
    assert one.facts == other.facts
    assert torch.equal(everything(one.train)["image"], everything(other.train)["image"])
    assert torch.equal(everything(one.test)["labels"], everything(other.test)["labels"])
    cut = tmp_path / "saved" / "test" / "data-00000-of-00001.arrow"
    cut.write_bytes(b"no stream")
    with pytest.raises(StillhouseError, match="is not an Arrow stream"):
        load(tmp_path / "saved")


def test_only_the_training_split_is_augmented(folder: Path) -> None:
    data = load(folder)
    for split, changes in ((data.train, True), (data.validation, False), (data.test, False)):
        indices = torch.arange(len(split))
        moved = not torch.equal(split.fetch(indices, generator())["image"], split.fetch(indices, None)["image"])
        assert moved is changes
    still = load(folder, crop=0, flip=False).train
    indices = torch.arange(len(still))
    assert torch.equal(still.fetch(indices, generator())["image"], still.fetch(indices, None)["image"])


def test_jpeg_and_grey_images_and_other_columns(tmp_path: Path, cache: Path) -> None:
    grey = pictures(6, 5, (8, 8))
    for split in ("train", "test"):
        images = [encoded(p, "JPEG") for p in grey]
        write(tmp_path / "grey" / f"{split}.parquet", images, [0, 1] * 3, image="picture", label="digit")
    data = load(tmp_path / "grey", image="picture", label="digit")
    assert data.facts.shape == (1, 8, 8)
    with Image.open(io.BytesIO(encoded(grey[2], "JPEG"))) as picture:
        wanted = torch.from_numpy(np.asarray(picture).copy())
    assert torch.equal((everything(data.test)["image"][2, 0] * 255).round().byte(), wanted)


def test_images_are_decoded_once(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(folder)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("decoded again"))
    again = load(folder)
    assert again.train.fingerprint == first.train.fingerprint
    shutil.copytree(folder, folder.parent / "copy")
    assert load(folder.parent / "copy").test.fingerprint == first.test.fingerprint, "the place must not matter"


def test_other_content_is_decoded_anew(folder: Path) -> None:
    before = load(folder)
    write(folder / "test.parquet", [encoded(p) for p in pictures(4, 9)], [1, 1, 0, 0])
    after = load(folder)
    assert after.test.fingerprint != before.test.fingerprint
    assert after.train.fingerprint == before.train.fingerprint
    assert everything(after.test)["labels"].tolist() == [1, 1, 0, 0]


LOAD = """
import sys, torch
from stillhouse.sources.kinds import ImageParquet
data = ImageParquet(path=sys.argv[1]).build()
parts = [part.fetch(torch.arange(len(part)), None)["image"].double() for part in (data.train, data.validation)]
print(data.train.fingerprint, float(sum(part.sum() for part in parts)), flush=True)
"""


def test_a_killed_build_and_rival_builders_leave_one_whole_cache(tmp_path: Path, cache: Path) -> None:
    pixels = pictures(3000, 4, (16, 16, 3))
    images = [encoded(p) for p in pixels]
    write(tmp_path / "big" / "train.parquet", images, [0, 1] * 1500)
    write(tmp_path / "big" / "test.parquet", images[:2], [0, 1])

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LOAD, str(tmp_path / "big")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))

    victim = start()
    deadline = time.monotonic() + 600
    while not list(cache.glob("images/*.part/images.npy")):
        assert victim.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not [path for path in cache.glob("images/*") if path.is_dir() and path.suffix != ".part"]
    rivals = [start(), start()]
    printed = [rival.communicate(timeout=600)[0] for rival in rivals]
    assert printed[0] == printed[1]
    assert float(printed[0].split()[1]) == pytest.approx(pixels.astype(np.float64).sum() / 255, rel=1e-6)
    assert not list(cache.glob("images/*.part"))


BROKEN = {
    "no folder": (lambda f: shutil.rmtree(f), {}, "there is no folder"),
    "no test file": (lambda f: (f / "test.parquet").unlink(), {}, r"no file test\*.parquet"),
    "no column": (lambda f: None, {"image": "imgs"}, "no column 'imgs'; did you mean 'img'"),
    "labels are text": (lambda f: None, {"label": "img"}, "not class indices"),
    "images are numbers": (lambda f: None, {"image": "label"}, "not encoded images"),
    "not parquet": (lambda f: (f / "test.parquet").write_bytes(b"nothing"), {}, "is not a Parquet file"),
    "not an image": (lambda f: write(f / "test.parquet", [b"x"], [0]), {}, "row 0: the image cannot be decoded"),
    "a path alone": (lambda f: write(f / "test.parquet", [None], [0]), {}, "row 0: no bytes"),
    "no label": (lambda f: write(f / "test.parquet", [encoded(pictures(1, 0)[0])], [-1]), {}, "without a label"),
    "no rows": (
        lambda f: (
            write(f / "test.parquet", [encoded(pictures(1, 0)[0])], [0])
            or parquet.write_table(parquet.read_table(f / "test.parquet").slice(0, 0), f / "test.parquet")
        ),
        {},
        "holds no rows",
    ),
    "two sizes": (
        lambda f: write(f / "test.parquet", [encoded(pictures(1, 0, (n, 4, 3))[0]) for n in (5, 6)], [0, 0]),
        {},
        "row 1: .* one size",
    ),
    "splits of two sizes": (
        lambda f: write(f / "test.parquet", [encoded(pictures(1, 0, (6, 6, 3))[0])], [0]),
        {},
        "test images 3 x 6 x 6",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_the_files_is_said(folder: Path, cache: Path, case: str) -> None:
    break_it, options, message = BROKEN[case]
    break_it(folder)
    with pytest.raises(StillhouseError, match=message):
        load(folder, **options)
    whole = [path for path in cache.glob("images/*") if path.is_dir() and path.suffix != ".part"]
    assert all((path / "labels.npy").is_file() for path in whole)


def test_a_cache_that_cannot_be_written_is_said(folder: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(StillhouseError, match="STILLHOUSE_CACHE"):
        load(folder)


def test_a_hub_data_set_is_read_as_a_folder_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, **options: object) -> str:
        asked.append((name, options))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    data = load(Path("hub:someone/images"))
    assert data.test.fingerprint == load(folder).test.fingerprint
    assert asked == [("someone/images", {"repo_type": "dataset", "allow_patterns": ["*.parquet"]})]


@pytest.mark.parametrize("name", ["someone/images", "not/a/name"])
def test_a_hub_that_gives_nothing_is_said(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    with pytest.raises(StillhouseError, match=f"cannot get the data set '{name}'"):
        ImageParquet(path=f"hub:{name}").build()
