"""Self-distillation without labels: a network learns from a moving average of itself on another view.

Papers: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (DINO), arXiv:2104.14294,
    algorithm 1; Kakogeorgiou et al. 2022, "What to Hide from Your Students" (AttMask), arXiv:2203.12719, section 3,
    on the losses of iBOT, Zhou et al. 2022, arXiv:2111.07832; Su & Ji 2024, "Unsqueeze [CLS] Bottleneck to Learn Rich
    Representations" (UDI), arXiv:2407.17671.
Algorithm: for each batch of two views,
    the teacher, an average of the student's weights, gives scores over prototypes for the class token and all
    patches of each view; centred and sharpened they are targets;
    with `hide`, a share of the patches is hidden from the student: those that the class token of the teacher's last
    layer attends to most (AttMask-High), or random ones;
    step on the cross-entropy of the class token to the target of the other view (DINO), with `hide` also of the
    hidden patches to the targets of the same patches (iBOT), and with `profile` also of a second class token to the
    profile of the other view: the mean of the targets of patches, one drawn from each cell of a grid (UDI).
Roles: student, whose average is the teacher and what is kept.
Deviations: two views of one size, no small crops; fixed temperatures and a fixed momentum. AttMask's hints are left
    out. UDI's extra token is the network's second one; its alignment of patches by attention is left out.
Limits: every process keeps a centre of its own. Networks with prototypes, such as `vit`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Signals, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.masked_autoencoder import vision_transformer
from stillhouse.methods.masked_kinds import SelfDistillation as Kind
from stillhouse.methods.roles import Roles
from stillhouse.objectives.prototypes import Centre, prototype_cross_entropy
from stillhouse.views.model import Model


class SelfDistillation(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        self.kind = kind
        network = vision_transformer(roles.student)
        if network.projection is None:
            raise StillhouseError("'self-distillation' needs prototypes: set student.network.prototypes, such as 64")
        if kind.profile and network.prefix < 2:
            raise StillhouseError("a profile is learned by a second token: set student.network.distillation: true")
        if "second_image" not in roles.example:
            raise StillhouseError("'self-distillation' needs two views: data: {kind: two-views, of: ...}")
        self.prefix, self.grid = network.prefix, network.grid
        self.attention = f"features.blocks.{len(network.blocks) - 1}.attention.softmax"
        self.student = Player(roles.student, decay=kind.momentum)
        self.centres = {name: Centre(kind.centre_momentum) for name in ("token", "patch")}

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        views = [batch, batch | {"image": batch["second_image"]}]
        told = [self.teacher_signals(view) for view in views]
        scores = torch.stack([one["prototypes"] for one in told])  # [2, B, P + N, K]
        tokens = self.centres["token"].targets(scores[:, :, 0], self.kind.teacher_temperature)
        patches = self.centres["patch"].targets(scores[:, :, self.prefix :], self.kind.teacher_temperature)
        hidden = [self.hidden(one[self.attention], rng) for one in told]
        seen = [view | {"hidden": gone} if self.kind.hide else view for view, gone in zip(views, hidden, strict=True)]
        own = torch.stack([self.student.module.signals(view, ["prototypes"])["prototypes"] for view in seen])
        losses = Losses(token=self.differ(own[:, :, 0], tokens.flip(0)).mean(0))
        if self.kind.hide:
            values = self.differ(own[:, :, self.prefix :], patches)  # [2, B, N]
            gone = torch.stack(hidden).to(values.dtype)
            losses["patch"] = Loss(((values * gone).sum(-1) / gone.sum(-1).clamp(min=1)).mean(0))
        if self.kind.profile:
            profiles = self.profile(patches, rng)
            losses["profile"] = Loss(self.differ(own[:, :, 1], profiles.flip(0)).mean(0))
        return losses

    def teacher_signals(self, view: Batch) -> Signals:
        """What the average of the student says of the whole view, and where it looks."""
        average = self.student.average
        assert isinstance(average, Model), "the engine keeps the average of a player with a decay"
        with torch.no_grad():
            return average.signals(view, ["prototypes", self.attention])

    def differ(self, scores: Tensor, target: Tensor) -> Tensor:
        return prototype_cross_entropy(scores, target, temperature=self.kind.student_temperature)

    def hidden(self, attention: Tensor, rng: torch.Generator) -> Tensor:
        """Which patches the student does not see, bool [B, N], from attention maps [B, heads, P + N, P + N]."""
        looked_at = attention[:, :, 0, self.prefix :].mean(1)
        if self.kind.hide is None:
            return torch.zeros_like(looked_at, dtype=torch.bool)
        if self.kind.hide.by == "random":
            looked_at = torch.rand(looked_at.shape, generator=rng, device=looked_at.device)
        count = max(1, int(self.kind.hide.share * looked_at.shape[1]))
        gone = torch.zeros_like(looked_at, dtype=torch.bool).scatter(1, looked_at.topk(count, dim=1).indices, True)
        some = torch.rand(len(gone), 1, generator=rng, device=gone.device) < self.kind.hide.chance
        return gone & some

    def profile(self, patches: Tensor, rng: torch.Generator) -> Tensor:
        """The mean of the targets [2, B, N, K] of one patch from each cell of a grid of 2 x 2: [2, B, K]."""
        height, width = self.grid
        cells = patches.unflatten(2, (2, height // 2, 2, width // 2)).transpose(3, 4).flatten(2, 3).flatten(3, 4)
        drawn = torch.randint(cells.shape[3], cells.shape[:3], generator=rng, device=cells.device)
        index = drawn[..., None, None].expand(*cells.shape[:3], 1, cells.shape[-1])
        return cells.gather(3, index).squeeze(3).mean(2)

    def state_dict(self) -> dict[str, Any]:
        return {name: centre.mean for name, centre in self.centres.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, mean in state.items():
            self.centres[name].mean = mean
