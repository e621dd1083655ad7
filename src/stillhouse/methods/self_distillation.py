"""Self-distillation without labels: a vision transformer learns from an average of itself that sees another view.

Papers: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (DINO), arXiv:2104.14294,
    algorithm 1; Kakogeorgiou et al. 2022, "What to Hide from Your Students" (AttMask), arXiv:2203.12719, section 3,
    on the losses of iBOT, Zhou et al. 2022, arXiv:2111.07832; Su & Ji 2024, "Unsqueeze [CLS] Bottleneck to Learn Rich
    Representations" (UDI), arXiv:2407.17671.
Algorithm: for each batch of two views,
    the teacher, an average of the student's weights, gives scores over prototypes for the class token and all
    patches of each view; sharpened and spread evenly they are targets;
    with `hide`, a share of the patches is hidden from the student in some images: those that the class token of the
    teacher's last layer attends to most (AttMask-High), or random ones (iBOT);
    step on the cross-entropy of the class token to the target of the other view (DINO), with `hide` also of the
    hidden patches to the targets of the same patches (iBOT), and with `profile` also of a second class token to the
    profile of the other view: alpha times the mean of the scores of patches, one drawn from each cell of a grid, and
    1 - alpha times the class token's, made a target as the others are (UDI).
Roles: student, whose average is the teacher and what is kept.
Deviations: two views of one size, no small crops. AttMask's hints are left out. UDI's term between patches of two views
    is left out, and the second class token is the network's distillation token. Those of `methods.prototypes`.
Limits: the network `vit`. AttMask has no proof here: of a small drawn character, the patches that are looked at most
    are nearly all there is, and in every trial of up to 1,400 steps random ones left more to learn from.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Loss, Losses
from stillhouse.errors import StillhouseError
from stillhouse.methods.masked_autoencoder import vision_transformer
from stillhouse.methods.prototype_kinds import SelfDistillation as Kind
from stillhouse.methods.prototypes import OverPrototypes
from stillhouse.methods.roles import Roles

FIRST, SECOND = 0, 1


class SelfDistillation(OverPrototypes):
    kind: Kind

    def __init__(self, kind: Kind, roles: Roles) -> None:
        network = vision_transformer(roles.student)
        if kind.profile and network.prefix < 2:
            raise StillhouseError("a profile is learned by a second token: set student.network.distillation: true")
        if "second_image" not in roles.example:
            raise StillhouseError("'self-distillation' needs two views: data: {kind: two-views, of: ...}")
        if kind.profile and any(size % kind.profile.cell for size in network.grid):
            raise StillhouseError(
                f"{network.grid[0]} x {network.grid[1]} patches do not split into cells of {kind.profile.cell} x "
                f"{kind.profile.cell}: set method.profile.cell to a divisor of both"
            )
        self.prefix, self.grid = network.prefix, network.grid
        self.attention = f"features.blocks.{len(network.blocks) - 1}.attention.softmax"
        super().__init__(kind, roles.student, network.positions.shape[-1])

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        view = {"image": torch.cat([batch["image"], batch["second_image"]])}
        teacher, student = self.student.final, self.student.module
        with torch.no_grad():
            told = teacher.signals(view, ["tokens", self.attention])
            scores = teacher.head(told["tokens"])  # [2 B, P + N, K]
        patches = scores[:, self.prefix :]
        hidden = self.hidden(told[self.attention], rng)
        seen = student.signals(view if hidden is None else view | {"hidden": hidden}, ["tokens"])["tokens"]
        losses = Losses(token=self.differ(student.head(seen[:, FIRST]), other_view(self.targets(scores[:, FIRST]))))
        if hidden is not None:
            own = student.head(seen[:, self.prefix :][hidden])
            losses["patch"] = Loss(self.differ(own, self.targets(patches[hidden])))
        if self.kind.profile is not None:
            local = stratified(patches, self.grid, self.kind.profile.cell, rng)
            profile = torch.lerp(scores[:, FIRST], local, self.kind.profile.alpha)
            losses["profile"] = Loss(self.differ(student.head(seen[:, SECOND]), other_view(self.targets(profile))))
        return losses

    def hidden(self, attention: Tensor, rng: torch.Generator) -> Tensor | None:
        """Which patches the student does not see, bool [B, N], from attention maps [B, heads, P + N, P + N]."""
        hide = self.kind.hide
        if hide is None:
            return None
        rank = attention[:, :, FIRST, self.prefix :].mean(1)
        if hide.by == "random":
            rank = torch.rand(rank.shape, generator=rng, device=rank.device)
        count = max(1, int(hide.share * rank.shape[1]))
        gone = torch.zeros_like(rank, dtype=torch.bool).scatter(1, rank.topk(count, dim=1).indices, True)
        return gone & (torch.rand(len(gone), 1, generator=rng, device=gone.device) < hide.chance)


def other_view(values: Tensor) -> Tensor:
    """The two halves of a batch of two views in the other order."""
    return values.roll(len(values) // 2, 0)


def stratified(patches: Tensor, grid: tuple[int, int], size: int, rng: torch.Generator) -> Tensor:
    """The mean over one patch drawn from each cell of `size` x `size` patches: values [B, N, K] to [B, K]."""
    cells = patches.unflatten(1, (grid[0] // size, size, grid[1] // size, size)).transpose(2, 3)
    cells = cells.flatten(3, 4).flatten(1, 2)  # [B, cells, patches of one, K]
    drawn = torch.randint(cells.shape[2], cells.shape[:2], generator=rng, device=cells.device)
    index = drawn[..., None, None].expand(*cells.shape[:2], 1, cells.shape[3])
    return cells.gather(2, index).squeeze(2).mean(1)
