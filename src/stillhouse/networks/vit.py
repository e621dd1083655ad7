"""A small vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), with DeiT's distillation token.

Touvron et al. 2021 (DeiT, arXiv:2012.12877): a second token beside the class token, with a head of its own.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.networks.kinds import ViT as Kind


class ViT(nn.Module):
    """Patches, learned positions, a class token, transformer blocks with the norm before, linear heads.

    Input [B, C, H, W]. The output is a mapping: `tokens` [B, P + N, D] after the last norm (P = 1 class token, and 2
    with the distillation token behind it; N patches row by row), `embedding` [B, D], the class token among them,
    `prefix` [B, P D], it and the distillation token side by side, `patches` [B, N, D], the rest of them, the same as a
    `map` [B, D, H / patch, W / patch] where all are seen, and `logits` [B, classes]. With a distillation token also
    `distillation_logits` [B, classes]; in training `logits` is then the class head's, in evaluation the mean of both
    heads'.

    Taps: `blocks.<i>` [B, P + N, D]; `blocks.<i>.attention.query`, `.key`, `.value`, the same shape;
    `blocks.<i>.attention.softmax`, the attention maps [B, heads, P + N, P + N].

    Raises StillhouseError where the image does not split into patches.
    """

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        if len(facts.shape) != 3 or facts.shape[1] % kind.patch or facts.shape[2] % kind.patch:
            raise StillhouseError(
                f"inputs of shape {list(facts.shape)} do not split into patches of {kind.patch} x {kind.patch}: "
                "set network.patch to a divisor of height and width"
            )
        channels, height, width = facts.shape
        self.grid = (height // kind.patch, width // kind.patch)
        self.patches = self.grid[0] * self.grid[1]
        self.prefix = 2 if kind.distillation else 1
        self.embed = nn.Conv2d(channels, kind.width, kind.patch, stride=kind.patch)
        self.prefix_tokens = nn.Parameter(torch.zeros(1, self.prefix, kind.width))
        self.positions = nn.Parameter(torch.zeros(1, self.prefix + self.patches, kind.width))
        self.blocks = nn.Sequential(*(Block(kind.width, kind.heads, kind.ratio) for _ in range(kind.depth)))
        self.norm = nn.LayerNorm(kind.width)
        self.head = nn.Linear(kind.width, facts.classes)
        self.distillation_head = nn.Linear(kind.width, facts.classes) if kind.distillation else None
        self.apply(_begin)
        for table in (self.prefix_tokens, self.positions):
            nn.init.normal_(table, std=kind.width**-0.5)

    def forward(
        self,
        image: Tensor,
        *,
        visible: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """See the class. The rest is for masked images.

        Args:
            visible: indices [B, K] of the patches that are looked at; the others are left out, so that `tokens` is
                [B, P + K, D] (He et al. 2022, arXiv:2111.06377).
            hidden: bool [B, N], the patches of which only the position is seen (Bao et al. 2022, arXiv:2106.08254). A
                learned mask token in their place could say no more: all positions and the bias of the embedding
                can take it up.
        """
        patches = self.embed(image).flatten(2).mT  # [B, N, D]
        if hidden is not None:
            patches = patches.masked_fill(hidden[..., None], 0.0)
        patches = patches + self.positions[:, self.prefix :]
        if visible is not None:
            patches = at(patches, visible)
        prefix = (self.prefix_tokens + self.positions[:, : self.prefix]).expand(len(image), -1, -1)
        tokens = self.norm(self.blocks(torch.cat([prefix, patches], 1)))
        logits = self.head(tokens[:, 0])
        patches = tokens[:, self.prefix :]
        first = tokens[:, : self.prefix].flatten(1)
        found = {"tokens": tokens, "embedding": tokens[:, 0], "prefix": first, "patches": patches, "logits": logits}
        if visible is None:
            found["map"] = patches.mT.unflatten(-1, self.grid)
        if self.distillation_head is not None:
            found["distillation_logits"] = self.distillation_head(tokens[:, 1])
            if not self.training:
                found["logits"] = (logits + found["distillation_logits"]) / 2
        return found


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): [B, T, D] to the same."""

    def __init__(self, width: int, heads: int, ratio: float) -> None:
        super().__init__()
        between = round(ratio * width)
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, between), nn.GELU(), nn.Linear(between, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Multi-head self-attention with a module each for queries, keys, values and the softmax, so that taps reach them.

    softmax(Q_a K_a' / sqrt(d)) V_a for each head a of width d: [B, T, D] to the same.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.softmax = nn.Softmax(dim=-1)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )  # each [B, heads, T, d]
        weights = self.softmax(query / math.sqrt(query.shape[-1]) @ key.mT)
        return self.output((weights @ value).transpose(1, 2).flatten(2))


def first_blocks(network: ViT, count: int) -> ViT:
    """The network cut off behind that many of its blocks. Its modules are the network's own, not copies."""
    short = copy.copy(network)
    short._modules = dict(network._modules)
    short.blocks = nn.Sequential(*list(network.blocks)[:count])
    return short


def at(tokens: Tensor, positions: Tensor) -> Tensor:
    """The tokens [B, N, D] at positions [B, K]: [B, K, D]."""
    return tokens.gather(1, positions[..., None].expand(-1, -1, tokens.shape[-1]))


def _begin(module: nn.Module) -> None:
    """As MAE's authors do; the fixed deviation of large ones, 0.02, would be far too small for narrow networks."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
