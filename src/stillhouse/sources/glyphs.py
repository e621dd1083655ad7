"""Characters drawn in many typefaces, each placed, turned, stretched, blurred and noised at random."""

from __future__ import annotations

import hashlib
import math
from fnmatch import fnmatch
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Data, Facts
from stillhouse.errors import StillhouseError
from stillhouse.sources.arrays import ImageArray
from stillhouse.sources.made_kinds import Glyphs
from stillhouse.sources.spatial import sampled

CANVAS = 64
"""Pixels of a drawing, each way; an image is sampled from it."""
EM = 56
"""Size of a typeface on the canvas."""
FINE = 3
"""Samples of a pixel, each way."""
CHUNK = 1024


class Typeset(ImageArray):
    """An `ImageArray` whose batches also tell the `domain` [B] of each image: the entry of `fonts` it is drawn in."""

    def __init__(self, images: Tensor, labels: Tensor, domain: Tensor, *, fingerprint: str, pad: int = 0) -> None:
        super().__init__(images, labels, fingerprint=fingerprint, pad=pad, plain_with="data.shift=0")
        self.domain = domain

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        """As `ImageArray.fetch`, with `domain` [B] int64."""
        return super().fetch(indices, rng) | {"domain": self.domain[indices]}


def glyphs(kind: Glyphs) -> Data:
    """Images [1, size, size] in [0, 1] of single characters, white on black, as many of each as of any other.

    Typefaces that lack a character are left out. Drawn once in a process: a run's stages, and a proof's seeds, ask for
    the same images again. Raises StillhouseError where the typefaces are not installed, or a pattern names none of
    them, or none that has all characters.
    """
    return _drawn(kind.model_dump_json())


@lru_cache(maxsize=4)
def _drawn(words: str) -> Data:
    kind = Glyphs.model_validate_json(words)
    drawings, domains = _drawings(kind.fonts, kind.characters)

    def split(number: int, count: int, drawings: Tensor, domains: Tensor, pad: int = 0) -> Typeset:
        rng = torch.Generator().manual_seed(3 * kind.seed + number)
        labels = torch.arange(count) % len(kind.characters)
        face = torch.randint(len(drawings), (count,), generator=rng)
        images = torch.cat(
            [_seen(drawings[f, c], kind, rng) for f, c in zip(face.split(CHUNK), labels.split(CHUNK), strict=True)]
        )
        told = hashlib.sha256(f"glyphs {kind.characters} {number}".encode() + images.numpy().tobytes())
        return Typeset(images, labels, domains[face], fingerprint=told.hexdigest(), pad=pad)

    facts = Facts(
        task="classification",
        shape=(1, kind.size, kind.size),
        classes=len(kind.characters),
        names=tuple(kind.characters),
        licence="typefaces DejaVu, STIX and Computer Modern, as matplotlib distributes them",
    )
    train = split(0, kind.train, drawings, domains, kind.shift)
    if kind.test_fonts:
        drawings, domains = _drawings(kind.test_fonts, kind.characters)
        domains = torch.full_like(domains, -1)
    validation, test = (split(n, count, drawings, domains) for n, count in ((1, kind.validation), (2, kind.test)))
    return Data(train, validation, test, facts)


def _faces(pattern: str) -> list[Path]:
    package = find_spec("matplotlib")
    if package is None or package.origin is None:
        raise StillhouseError(
            "data of kind 'glyphs' is drawn in typefaces that the package 'matplotlib' carries, which is not "
            "installed: pip install 'stillhouse[glyphs]'"
        )
    folder = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf"
    found = sorted(file for file in folder.glob("*.ttf") if fnmatch(file.stem, pattern))
    if not found:
        names = ", ".join(sorted(file.stem for file in folder.glob("*.ttf")))
        raise StillhouseError(f"data.fonts: no typeface fits {pattern!r}. There are: {names}")
    return found


def _drawings(patterns: list[str], characters: str) -> tuple[Tensor, Tensor]:
    """Every character in every typeface that has all of them, [faces, characters, CANVAS, CANVAS] in [0, 1], and the
    number of the pattern that each such typeface fits, [faces]."""
    drawn, numbers = [], []
    for number, group in enumerate(map(_faces, patterns)):
        whole = [drawings for face in group if (drawings := _alphabet(face, characters)) is not None]
        if not whole:
            names = ", ".join(face.stem for face in group)
            raise StillhouseError(f"data.characters: of {names}, no typeface has all of {characters!r}")
        drawn += whole
        numbers += [number] * len(whole)
    return torch.from_numpy(np.array(drawn)).float() / 255, torch.tensor(numbers)


def _alphabet(face: Path, characters: str) -> list[np.ndarray] | None:
    """Each character's drawing, [CANVAS, CANVAS] uint8; None where the typeface lacks one of them."""
    font = ImageFont.truetype(str(face), EM)
    missing = _drawing(font, "\U000fffff")
    drawings = [_drawing(font, character) for character in characters]
    lacks = any(not pixels.any() or np.array_equal(pixels, missing) for pixels in drawings)
    return None if lacks else drawings


def _drawing(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    image = Image.new("L", (CANVAS, CANVAS))
    middle, baseline = CANVAS // 2, CANVAS // 2 + EM // 3
    ImageDraw.Draw(image).text((middle, baseline), character, fill=255, font=font, anchor="ms")
    return np.asarray(image)


def _seen(drawings: Tensor, kind: Glyphs, rng: torch.Generator) -> Tensor:
    """Drawings [B, CANVAS, CANVAS] as images [B, 1, size, size]: where, how large, how clear is drawn for each."""

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(drawings), generator=rng)

    strength = kind.distortion
    angle = strength * between(-1, 1) * math.radians(15)
    slant = strength * between(-1, 1) * 0.2
    wide, high = (strength * between(-0.2, 0.2)).exp(), (strength * between(-0.2, 0.2)).exp()
    right, down = strength * between(-0.2, 0.2), strength * between(-0.2, 0.2)
    cos, sin = angle.cos(), angle.sin()
    where = torch.stack(
        [wide * cos, wide * (slant * cos - sin), right, high * sin, high * (slant * sin + cos), down], 1
    ).view(-1, 2, 3)
    fine = FINE * kind.size
    at = functional.interpolate(drawings.unsqueeze(1), size=(fine, fine), mode="area")
    image = functional.avg_pool2d(sampled(at, where), FINE)
    blur = (strength * between(0, 1)).clamp(max=1).view(-1, 1, 1, 1)
    soft = functional.avg_pool2d(functional.pad(image, (1, 1, 1, 1)), 3, stride=1)
    contrast = 1 - strength * between(0, 0.5).view(-1, 1, 1, 1)
    noise = kind.noise * torch.randn(image.shape, generator=rng)
    return (contrast * torch.lerp(image, soft, blur) + noise).clamp(0, 1)
