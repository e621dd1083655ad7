"""How near restored images are to the true ones, and how well they pass for true ones."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Batch
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.generation import frechet_distance, judge_of, read
from stillhouse.evaluation.pictures import sheet
from stillhouse.evaluation.task_kinds import PSNR, TradeOff
from stillhouse.sources.low_resolution import clean, true_images
from stillhouse.teachers.ensemble import LOGITS, Ensemble

TEACHER = "teacher"
SHOWN = 4
"""Examples in the report."""


def psnr(kind: PSNR, arm: Arm, context: Context) -> Findings:
    """10 log10(1 / mean squared error) of each image, cut to [0, 1] first: the peak is 1."""
    del kind
    found = []
    with measuring(arm.model):
        for batch in batches(context.source, context.batch_size, context.device):
            found.append(decibels(arm.model.signals(batch)[LOGITS], batch["labels"]).cpu())
        few = next(batches(context.source, SHOWN, context.device))
        restored = arm.model.signals(few)[LOGITS]
    values = torch.cat(found)
    return Findings(
        metrics={"psnr": values.mean().item()},
        figures=[rows("Restored, and true", [restored, few["labels"]])],
        per_example={"psnr": values.tolist()},
    )


def rows(title: str, columns: list[Tensor]) -> dict[str, Any]:
    """A figure with a row an example: columns of images [B, C, H, W], smaller ones enlarged to the last's size."""
    size = columns[-1].shape[-2:]
    even = [functional.interpolate(images.float(), size=size) for images in columns]
    return sheet(title, torch.stack(even, 1).flatten(0, 1), columns=len(columns))


def decibels(restored: Tensor, true: Tensor) -> Tensor:
    """Images [B, C, H, W] -> [B] float64."""
    error = (restored.clamp(0, 1).double() - true).square().flatten(1).mean(1)
    return -10 * error.clamp(min=1e-10).log10()


@dataclass(frozen=True)
class Front:
    """What a restorer gives at each place of the scalar, from 0 to 1."""

    psnr: list[float]
    distance: list[float]

    def distance_at(self, psnr: float) -> float:
        """The distance where the decibels are these, between its two nearest places; of its end where it has none.

        Decibels are taken to fall, and are made to: a place with more of them than one before it counts as equal.
        """
        falling = [min(self.psnr[: number + 1]) for number in range(len(self.psnr))]
        place = bisect_left([-value for value in falling], -psnr)
        if place in (0, len(falling)):
            return self.distance[min(place, len(falling) - 1)]
        before, after = falling[place - 1], falling[place]
        share = (before - psnr) / (before - after)
        return self.distance[place - 1] + share * (self.distance[place] - self.distance[place - 1])

    def ahead_of(self, other: Front) -> float:
        """The share of its places at which its distance is below the other's where that has the same decibels."""
        places = zip(self.psnr, self.distance, strict=True)
        return sum(distance < other.distance_at(psnr) for psnr, distance in places) / len(self.psnr)


def trade_off(kind: TradeOff, arm: Arm, context: Context) -> Findings:
    """Mean decibels and Fréchet distance at the scalar's ends and middle, and the distance at equal decibels.

    `distance_matched` is read off the line through an arm's places where the decibels are `given_up` below the
    teacher's at scalar 0: at one fidelity for all arms. An arm that never gets there has the distance of its nearest
    end. `ahead`: the share of the arm's own places at which its distance is below the teacher's at the same decibels.

    Raises StillhouseError for an arm that no scalar moves, and for data that tells no classes of true images.
    """
    front, middle = _front(kind, arm, context), kind.places // 2
    teacher = _front(kind, context.arms[TEACHER], context)
    places = torch.linspace(0, 1, kind.places).tolist()
    common = {"kind": "lines", "x": places, "xlabel": "scalar", "about": "0: fidelity, 1: realness."}
    return Findings(
        metrics={
            "psnr_low": front.psnr[0],
            "psnr_middle": front.psnr[middle],
            "psnr_high": front.psnr[-1],
            "distance_low": front.distance[0],
            "distance_middle": front.distance[middle],
            "distance_high": front.distance[-1],
            "distance_matched": front.distance_at(teacher.psnr[0] - kind.given_up),
            "ahead": front.ahead_of(teacher),
        },
        figures=[
            common | {"title": "Decibels by the scalar", "series": {"": front.psnr}, "ylabel": "dB"},
            common | {"title": "Distance from true images by the scalar", "series": {"": front.distance}},
            _shown(arm, context),
        ],
    )


def _shown(arm: Arm, context: Context) -> dict[str, Any]:
    few = next(batches(context.source, SHOWN, context.device))
    with measuring(arm.model):
        moved = list(_moved(arm, few, 3))
    return rows("Given; scalar 0, 1/2, 1; true", [few["image"], *moved, few["labels"]])


def _front(kind: TradeOff, arm: Arm, context: Context) -> Front:
    key = ("trade-off", arm.name, kind.places, context.source.fingerprint)
    if key not in context.memo:
        context.memo[key] = _swept(kind, arm, context)
    return context.memo[key]


def _swept(kind: TradeOff, arm: Arm, context: Context) -> Front:
    judge = judge_of(replace(context, data=clean(context.data), source=true_images(context.source)))
    near: list[list[Tensor]] = [[] for _ in range(kind.places)]
    seen: list[list[Tensor]] = [[] for _ in range(kind.places)]
    with measuring(arm.model), measuring(judge.network):
        for batch in batches(context.source, context.batch_size, context.device):
            for number, images in enumerate(_moved(arm, batch, kind.places)):
                near[number].append(decibels(images, batch["labels"]))
                seen[number].append(read(judge.network, images.clamp(0, 1))[0])
    distances = [frechet_distance(torch.cat(features), judge.real) for features in seen]
    return Front([torch.cat(values).mean().item() for values in near], distances)


def _moved(arm: Arm, batch: Batch, places: int) -> Iterator[Tensor]:
    """An arm's images [B, C, H, W] at each place of the scalar."""
    scalars = torch.linspace(0, 1, places).tolist()
    if isinstance(arm.model, Ensemble) and len(arm.model.members) == 2:
        first, second = (member.signals(batch)[LOGITS] for member in arm.model.members.values())
        yield from (torch.lerp(first, second, scalar) for scalar in scalars)
    elif getattr(arm.model.network, "controlled", False):
        for scalar in scalars:
            told = torch.full((len(batch["image"]),), scalar, device=batch["image"].device)
            yield arm.model.signals(batch | {"trade_off": told})[LOGITS]
    else:
        raise StillhouseError(
            f"trade-off: no scalar moves the arm {arm.name!r}. It is for a network that is `controlled`, and for a "
            "teacher of two members, whose images are averaged"
        )
