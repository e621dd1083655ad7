"""Relations between the tokens of an example, taken from the queries, keys and values of attention layers.

The signals are outputs of a layer's projections, [B, T, D] each, such as `features.layers.5.self_attn.q_proj`; a head
is a slice of D. Where a network turns queries and keys by their positions (rotary embeddings), these are the ones
before the turn. Every loss computes in at least fp32 (also under autocast), lets gradients flow to the student alone
and gives one value an example [B]. `attention_mask` [B, T] is zero at padding, which then counts neither as a token
nor as what a token looks at; with `causal` a token looks at itself and those before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.errors import StillhouseError
from stillhouse.objectives.divergences import at_least_fp32

Relation = Literal["qk", "qq", "kk", "vv"]


def attention_relations(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    heads: int,
    relations: Sequence[Relation] = ("qq", "kk", "vv"),
    causal: bool = False,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """KL of softmaxed token relations: MiniLM (arXiv:2002.10957, eqs. 6 to 8), MiniLMv2 (arXiv:2012.15828, eqs. 6, 7).

    For a pair such as qk, R = softmax(Q_a K_a' / sqrt(d_a)) for each of `heads` slices a of width d_a; the value is
    sum over pairs of the mean over heads and tokens of KL(R_teacher || R_student). MiniLM is qk and vv at the
    attention heads' number, MiniLMv2 qq, kk and vv at a number of relation heads of one's own. The sides' widths may
    differ, the number of heads may not.

    Scale: the papers' loss is the mean over the batch (every pair of relations with weight one).

    Args: [queries, keys, values], each [B, T, D]. Returns [B].
    Raises StillhouseError where the signals are not three, or `heads` does not divide their width.
    """
    ours, theirs = _named(student), _named(teacher)
    total = None
    with torch.autocast(student[0].device.type, enabled=False):
        for pair in relations:
            log_q = _log_attention(ours[pair[0]], ours[pair[1]], heads, causal, attention_mask)
            log_p = _log_attention(theirs[pair[0]].detach(), theirs[pair[1]].detach(), heads, causal, attention_mask)
            p = log_p.exp()
            value = (p * (log_p - log_q).masked_fill(p == 0, 0.0)).sum(-1).mean(1)
            total = value if total is None else total + value
    assert total is not None, "at least one pair of relations"
    return _over_tokens(total, attention_mask)


def attention_scores(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    heads: int,
    causal: bool = False,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Squared difference of attention scores before the softmax: TinyBERT, Jiao et al. 2020 (arXiv:1909.10351), eq. 7.

    A = Q_a K_a' / sqrt(d_a) of head a; the mean over heads, tokens and what they may look at of (A_S - A_T)^2. Both
    sides need the same number of attention heads. TinyBERT's other layer terms are `mse` with `project: linear` on
    hidden states (eq. 8) and on the embeddings (eq. 9).

    Deviation: the authors' code sets scores at padding to zero and counts them; here they are left out.

    Args: [queries, keys], each [B, T, D]. Returns [B]; the mean over the batch is the paper's loss of one layer.
    """
    with torch.autocast(student[0].device.type, enabled=False):
        ours = _scores(*_pair(student), heads)
        theirs = _scores(*_pair(teacher), heads).detach().to(ours.dtype)
        seen = _seen(ours, causal, attention_mask).to(ours.dtype)
        if attention_mask is not None:
            seen = seen * (attention_mask != 0)[:, None, :, None]
        squares = (ours - theirs).square().mean(1, keepdim=True) * seen
        return squares.sum((1, 2, 3)) / seen.sum((1, 2, 3)).clamp(min=1)


class HeadMap(nn.Module):
    """A learned map from all the student's attention heads to all the teacher's: align-to-distill.

    Jin et al. 2024 (arXiv:2403.01479), section 3. The student's attention maps, of all its layers and heads, are the
    channels of an image [B, layers * heads, T, T]; a 1 x 1 convolution makes of them as many maps as the teacher
    has. The value is the sum over those of KL(teacher's || student's), each map being made a distribution by a
    softmax over all its T^2 entries, as the authors' code does (on attention that went through a softmax before).

    Scale: the code sums over the batch, so its loss is B times the mean of this. Its weight decays with the epochs.
    Deviation: padding, and what a causal token cannot see, are no entries of a map; the code counts them as zeros.
    Limits: attention is computed from queries and keys as they are given (see the module).

    Args of forward: [queries, keys, queries, keys, ...] of the layers, each [B, T, D]. Returns [B].
    """

    def __init__(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        *,
        heads: int,
        teacher_heads: int,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.teacher_heads, self.causal = heads, teacher_heads, causal
        ours, theirs = len(_layers(student)) * heads, len(_layers(teacher)) * teacher_heads
        self.align = nn.Conv2d(ours, theirs, 1)

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], *, attention_mask: Tensor | None = None
    ) -> Tensor:
        with torch.autocast(student[0].device.type, enabled=False):
            ours = self.align(self._maps(student, self.heads, attention_mask))
            theirs = self._maps([x.detach() for x in teacher], self.teacher_heads, attention_mask).to(ours.dtype)
            counted = self._counted(ours, attention_mask)
            log_q, log_p = (
                x.masked_fill(~counted, torch.finfo(x.dtype).min)
                .flatten(2)
                .log_softmax(-1)
                .masked_fill(~counted.flatten(2), 0.0)
                for x in (ours, theirs)
            )
            p = log_p.exp() * counted.flatten(2)
            return (p * (log_p - log_q)).sum((1, 2))

    def _maps(self, side: Sequence[Tensor], heads: int, mask: Tensor | None) -> Tensor:
        return torch.cat([_log_attention(q, k, heads, self.causal, mask) for q, k in _layers(side)], 1).exp()

    def _counted(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        seen = _seen(maps, self.causal, mask).expand(len(maps), 1, -1, -1)
        return seen if mask is None else seen & (mask != 0)[:, None, :, None]


class TaskFilters(nn.Module):
    """Layers compared through filters that keep what the task needs: TED, Liang et al. 2023 (arXiv:2210.01351).

    Each pair of layers has a linear filter on either side and a linear head on the teacher's. The value is the mean
    over layers of mse(filter_S(h_S), filter_T(h_T)) + cross-entropy(head(filter_T(h_T)), labels). The teacher's
    filter learns the task alone and takes no gradient from the mse; the student and its filter learn the mse alone.

    Deviation: the paper trains the filters of both sides on the task first, keeps the teacher's fixed, and starts the
    student's from there; here they are trained along, so that what is compared settles in the first part of a run.

    Args of forward: lists of features [B, D] or [B, T, D] of both sides, as many; `labels` [B]. Returns [B].
    Raises StillhouseError where the lists differ in length or the labels are not one class an example.
    """

    def __init__(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], *, classes: int, width: int | None = None
    ) -> None:
        super().__init__()
        if len(student) != len(teacher):
            raise StillhouseError(
                f"task_filters compares layer by layer, and there are {len(student)} of the student's and "
                f"{len(teacher)} of the teacher's: name as many on each side"
            )
        widths = [width or x.shape[-1] for x in teacher]
        self.student_filters = nn.ModuleList(nn.Linear(x.shape[-1], w) for x, w in zip(student, widths, strict=True))
        self.teacher_filters = nn.ModuleList(nn.Linear(x.shape[-1], w) for x, w in zip(teacher, widths, strict=True))
        self.heads = nn.ModuleList(nn.Linear(w, classes) for w in widths)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], *, labels: Tensor) -> Tensor:
        if labels.dim() != 1:
            raise StillhouseError(
                f"task_filters needs one class an example, and the labels have shape {tuple(labels.shape)}"
            )
        values = []
        with torch.autocast(labels.device.type, enabled=False):
            for number, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
                own = self.student_filters[number](at_least_fp32(ours))
                other = self.teacher_filters[number](at_least_fp32(theirs.detach()))
                difference = (own - other.detach()).square().flatten(1).mean(1)
                pooled = other if other.dim() == 2 else other.mean(1)
                task = functional.cross_entropy(self.heads[number](pooled), labels, reduction="none")
                values.append(difference + task)
        return torch.stack(values).mean(0)


def _named(side: Sequence[Tensor]) -> dict[str, Tensor]:
    if len(side) != 3:
        raise StillhouseError(f"attention relations take [queries, keys, values], and {len(side)} signals are named")
    return dict(zip("qkv", side, strict=True))


def _pair(side: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    if len(side) != 2:
        raise StillhouseError(f"attention scores take [queries, keys], and {len(side)} signals are named")
    return side[0], side[1]


def _layers(side: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    if not side or len(side) % 2:
        raise StillhouseError(
            f"a head map takes [queries, keys] of each layer in turn, and {len(side)} signals are named"
        )
    return list(zip(side[::2], side[1::2], strict=True))


def _scores(one: Tensor, two: Tensor, heads: int) -> Tensor:
    """Scaled products of two of queries, keys, values by head: [B, T, D] twice to [B, heads, T, T]."""
    if one.dim() != 3 or one.shape[-1] % heads or one.shape != two.shape:
        raise StillhouseError(
            f"attention needs two signals [B, T, D] of one shape, with D a multiple of {heads} heads; "
            f"these have shapes {tuple(one.shape)} and {tuple(two.shape)}"
        )
    first, second = (at_least_fp32(x).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (one, two))
    return first @ second.transpose(-1, -2) / math.sqrt(first.shape[-1])


def _seen(scores: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    """What each token looks at: [B or 1, 1, T, T]."""
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
    seen = (seen.tril() if causal else seen)[None, None]
    return seen if mask is None else seen & (mask != 0)[:, None, None, :]


def _log_attention(one: Tensor, two: Tensor, heads: int, causal: bool, mask: Tensor | None) -> Tensor:
    """log softmax of the scores over what is seen; elsewhere the least finite number."""
    scores = _scores(one, two, heads)
    hidden = ~_seen(scores, causal, mask)
    return scores.masked_fill(hidden, torch.finfo(scores.dtype).min).log_softmax(-1)


def _over_tokens(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over tokens [B, T] that are not padding."""
    if mask is None:
        return values.mean(1)
    counted = (mask != 0).to(values.dtype)
    return (values * counted).sum(1) / counted.sum(1).clamp(min=1)
