"""Masked autoencoding, and distillation between networks that see the same few patches.

Papers: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners" (MAE), arXiv:2111.06377, section 3;
    Bai et al. 2023, "Masked Autoencoders Enable Efficient Knowledge Distillers" (DMAE), arXiv:2208.12256, section 3;
    Huang et al. 2023, "Generic-to-Specific Distillation of Masked Autoencoders" (G2SD), arXiv:2302.14771, section 3.2.
Algorithm: for each batch, hide a random share `mask` of each image's patches; the student reads the others; the
    decoder reads the student's tokens, with a learned token in every hidden place, and gives a vector a patch;
    with `pixels`, step on the mean squared difference between what a linear layer makes of the hidden patches'
    vectors and their pixels (MAE); beside it on the terms (DMAE: `features.blocks.<i>` of student and teacher, which
    sees the same visible patches and runs no further than the last block compared; G2SD, without `pixels`: the
    decoder's vectors, signal `decoded`, held to the teacher's `patches`, the teacher seeing the whole image:
    `teacher_sees: everything`).
Roles: student, a vision transformer; teacher, one more (absent without terms); the decoder is a train-only part.
Deviations: in G2SD the targets are hidden states of the teacher's decoder on the same visible patches; decoders are
    gone here once a stage is over, and the targets are the last tokens of its encoder on the whole image. DMAE's
    projector has a hidden layer; that of a term is linear.
Limits: networks that take `visible` patches, such as `vit`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Signals, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.masked_kinds import MaskedAutoencoder as Kind
from stillhouse.methods.roles import Roles
from stillhouse.networks.vit import Block, ViT, first_blocks
from stillhouse.objectives.terms import Terms
from stillhouse.teachers.frozen import Frozen, Teacher
from stillhouse.views.model import Model

DECODED = "decoded"


class MaskedAutoencoder(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        self.kind, self.terms = kind, Terms(kind.terms)
        if self.terms and roles.teacher is None:
            raise StillhouseError("the terms of 'masked-autoencoder' need a teacher, and the recipe has none")
        if not (self.terms or kind.pixels):
            raise StillhouseError("'masked-autoencoder' without pixels and without terms has nothing to learn")
        self.teacher = as_far_as(self.terms.asks, roles.teacher) if self.terms else None
        self.patch = vision_transformer(roles.student).embed.stride[0]
        self.student = Player(roles.student, parts=self._parts(roles))

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        image = self.student.module.view.inputs(batch)[""]
        visible, hidden = split(len(image), self._patches, self.kind.mask, rng)  # [B, K], [B, N - K]
        student = self._look(batch, visible)
        losses = Losses()
        if self.kind.pixels:
            wanted = patches_of(image, self.patch)
            losses["pixels"] = Loss(reconstruction(self._decoder.pixels(student[DECODED]), wanted, hidden))
        teacher = self._teacher_signals(batch, visible)
        parts = dict(self.student.parts.items())
        losses.update(self.terms.losses(student, teacher, None, None, progress=self.progress, parts=parts, batch=batch))
        return losses

    @property
    def _patches(self) -> int:
        return vision_transformer(self.student.module).patches

    @property
    def _decoder(self) -> Decoder:
        decoder = self.student.parts["decoder"]
        assert isinstance(decoder, Decoder)
        return decoder

    def _look(self, batch: Batch, visible: Tensor) -> Signals:
        """The student's signals on the visible patches, the decoder's among them."""
        wants = [signal for signal in self.terms.wants if signal != DECODED]
        found = self.student.module.signals(batch | {"visible": visible}, ["tokens", *wants])
        return found | {DECODED: self._decoder(found["tokens"], visible)}

    def _teacher_signals(self, batch: Batch, visible: Tensor) -> Signals:
        seen = batch | {"visible": visible} if self.kind.teacher_sees == "visible" else batch
        return {} if self.teacher is None else self.teacher.signals(seen, self.terms.asks)

    def _parts(self, roles: Roles) -> dict[str, nn.Module]:
        """The decoder, and what the terms train, sized by one batch."""
        network = vision_transformer(roles.student)
        decoder = Decoder(self.kind, network, channels=roles.facts.shape[0])
        self.student = Player(roles.student, parts={"decoder": decoder})
        visible, _ = split(len(roles.example["index"]), network.patches, self.kind.mask, None)
        visible = visible.to(roles.example["index"].device)
        with torch.no_grad():
            decoder.to(visible.device)
            student, teacher = self._look(roles.example, visible), self._teacher_signals(roles.example, visible)
        return {"decoder": decoder} | self.terms.parts(student, teacher)


class Decoder(nn.Module):
    """From tokens of visible patches to a vector for every patch (MAE, section 3), and from that to its pixels."""

    def __init__(self, kind: Kind, encoder: ViT, *, channels: int) -> None:
        super().__init__()
        inside, self.prefix, self.patches = encoder.positions.shape[-1], encoder.prefix, encoder.patches
        self.embed = nn.Linear(inside, kind.width)
        self.mask_token = nn.Parameter(torch.zeros(kind.width))
        self.positions = nn.Parameter(torch.randn(1, self.patches, kind.width) * kind.width**-0.5)
        self.blocks = nn.Sequential(*(Block(kind.width, kind.heads, 2.0) for _ in range(kind.depth)))
        self.norm = nn.LayerNorm(kind.width)
        self.pixels = nn.Linear(kind.width, channels * encoder.embed.stride[0] ** 2)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Tokens [B, P + K, D] of the patches at `visible` [B, K] to vectors [B, N, width]."""
        known = self.embed(tokens)
        places = visible[..., None].expand(-1, -1, known.shape[-1])
        blank = self.mask_token.to(known.dtype).expand(len(known), self.patches, -1)
        patches = blank.scatter(1, places, known[:, self.prefix :]) + self.positions
        return self.norm(self.blocks(torch.cat([known[:, : self.prefix], patches], 1)))[:, self.prefix :]


def as_far_as(wants: Sequence[str], teacher: Teacher) -> Teacher:
    """A vision transformer without the blocks behind the last one it is asked for; other teachers as they are."""
    asked = [re.match(r"features\.blocks\.(\d+)", want) for want in wants]
    if type(teacher) is not Frozen or not isinstance(teacher.network, ViT) or not all(asked):
        return teacher
    last = max(int(found[1]) for found in asked if found)
    return Frozen(Model(first_blocks(teacher.network, last + 1), teacher.view))


def split(images: int, patches: int, mask: float, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Random indices of the visible and the hidden patches of each image: [B, K] and [B, N - K], both kinds occur."""
    device = None if rng is None else rng.device
    order = torch.rand(images, patches, generator=rng, device=device).argsort(1)
    kept = min(max(round(patches * (1 - mask)), 1), patches - 1)
    return order[:, :kept], order[:, kept:]


def patches_of(image: Tensor, patch: int) -> Tensor:
    """The pixels of each patch, row by row: [B, C, H, W] to [B, N, C patch^2]."""
    return functional.unfold(image, patch, stride=patch).mT


def reconstruction(decoded: Tensor, pixels: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared difference over the hidden patches [B, M] of [B, N, C patch^2]; one value an image [B]."""
    squares = (decoded.float() - pixels.float()).square().mean(-1)
    return squares.gather(1, hidden).mean(1)


def vision_transformer(model: Model) -> ViT:
    if not isinstance(model.network, ViT):
        raise StillhouseError(
            f"this method masks patches, and {type(model.network).__name__} has none: choose network: vit"
        )
    return model.network
