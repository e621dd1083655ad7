"""FerKD: soft labels of crops, scored by the teacher once, calibrated, and used for the whole training.

Paper: Shen 2023, "FerKD: Surgical Label Adaptation for Efficient Distillation", arXiv:2306.16324; the stored crops are
    those of Shen & Xing 2022 (FKD, arXiv:2112.01528).
Algorithm: before the first step, `crops` boxes are drawn for every training image, and the teacher scores each once:
    p its largest probability; p < discard_below: a hard negative, left out; p < trust_above: the smoothed label takes
    the place of the answer; otherwise the answer is kept.
    For each batch, one box of each image is cut out again, and the student steps on the cross-entropy to its label.
    SelfMix: for a share of the examples a rectangle of another box of the same image is pasted in, and the two labels
    are mixed by area.
Roles: student; teacher, asked before the first step alone.
Deviations: boxes keep the image's aspect and are not mirrored; the scores stand in memory, not on disk, and are made
    again when a killed run goes on, as they depend on seed, data and teacher alone. SelfMix's area is drawn evenly.
Limits: a source that does not augment by itself, since a crop is cut from the image that was scored.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.logit_kinds import FerKD as FerKDKind
from stillhouse.methods.roles import Roles
from stillhouse.objectives.divergences import cross_entropy
from stillhouse.sources.mixing import rectangles
from stillhouse.sources.spatial import cropped


class FerKD(Method):
    def __init__(self, kind: FerKDKind, roles: Roles) -> None:
        if roles.teacher is None:
            raise StillhouseError("method 'ferkd' needs a teacher, and the recipe has none: add one under 'teacher'")
        source = roles.source
        assert source is not None, "the builder gives the source"
        if getattr(source, "augments", False):
            plain = getattr(source, "plain_with", "")
            raise StillhouseError(f"ferkd cuts crops of its own from plain images; augmentation is off with {plain}")
        self.kind = kind
        self.student = Player(roles.student)
        self.boxes = _boxes(len(source), kind).to(roles.example["image"].device)  # [N, crops, 3]
        self.labels, self.kept = self._scored(roles)  # [N, crops, C], [N, crops]

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        image, label, where = self._crop(batch, rng)
        other, its_label, its_where = self._crop(batch, rng)
        mixing = torch.rand(len(image), generator=rng, device=rng.device) < self.kind.mixed
        share = torch.where(mixing, torch.rand(len(image), generator=rng, device=rng.device), 1.0)
        pasted = rectangles(image, share, rng) & (where & its_where).view(-1, 1, 1, 1)  # [B, 1, H, W]
        left = 1 - pasted.float().mean((1, 2, 3)).unsqueeze(1)  # [B, 1]
        seen = batch | {"image": torch.where(pasted, other, image)}
        student = self.student.module.signals(seen)["logits"]
        return Losses(ferkd=Loss(cross_entropy(student, torch.lerp(its_label, label, left)), where=where))

    def told(self) -> dict[str, float]:
        return {"crops_scored": float(self.kept.numel()), "crops_kept": self.kept.float().mean().item()}

    def _crop(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A crop of each image that is kept, where it has one; its label, and whether it is."""
        index = batch["index"]
        kept = self.kept[index]  # [B, crops]
        chances = torch.where(kept.any(1, keepdim=True), kept.float(), 1.0)
        k = torch.multinomial(chances, 1, generator=rng).squeeze(1)
        return cropped(batch["image"], self.boxes[index, k]), self.labels[index, k], self.kept[index, k]

    def _scored(self, roles: Roles) -> tuple[Tensor, Tensor]:
        """The calibrated label of every crop, and whether it is kept."""
        answers, truth = [], []
        for batch in roles.everything():
            boxes = self.boxes[batch["index"]].unbind(1)
            crops = [batch | {"image": cropped(batch["image"], box)} for box in boxes]
            answers.append(torch.stack([roles.teacher.signals(crop)["logits"] for crop in crops], 1))
            truth.append(batch["labels"])
        p = torch.cat(answers).float().softmax(-1)  # [N, crops, C]
        return calibrated(p, torch.cat(truth), self.kind)


def calibrated(p: Tensor, labels: Tensor, kind: FerKDKind) -> tuple[Tensor, Tensor]:
    """Of answers p [N, crops, C] and true classes [N]: labels [N, crops, C], and which crops are kept [N, crops]."""
    sure = p.amax(-1)
    hard = functional.one_hot(labels, p.shape[-1]).to(p.dtype)
    smoothed = (1 - kind.smoothing) * hard + kind.smoothing / p.shape[-1]
    trusted = (sure >= kind.trust_above).unsqueeze(-1)
    return torch.where(trusted, p, smoothed.unsqueeze(1)), sure >= kind.discard_below


def _boxes(count: int, kind: FerKDKind) -> Tensor:
    """Boxes inside the image: size from `smallest` to 1, and a centre, [count, crops, 3]."""
    size = kind.smallest + (1 - kind.smallest) * torch.rand(count, kind.crops, 1)
    return torch.cat([size, (1 - size) * (2 * torch.rand(count, kind.crops, 2) - 1)], -1)
