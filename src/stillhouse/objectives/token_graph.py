"""Graphs of tokens: which places of which images stand near to each other, in the teacher and in the student."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.errors import StillhouseError
from stillhouse.objectives.contrast import same_resolution
from stillhouse.objectives.divergences import at_least_fp32
from stillhouse.objectives.features import full_precision
from stillhouse.objectives.relations import unit_length


@full_precision
def token_graph(
    student: Tensor,
    target: Tensor,
    *,
    neighbours: int = 16,
    temperature: float = 0.1,
    contextual: float = 1.0,
    sampled: int | None = None,
) -> Tensor:
    """KL between the edges of two token graphs, after Zhang et al. 2023 (TRG, arXiv:2306.12442).

    Tokens are the positions of a feature map, or of a sequence, brought to unit length. Over the batch: each token's
    edges lead to its `neighbours` nearest tokens by the teacher's cosine similarities; their softmax at `temperature`
    is held to the student's over the same edges by KL(teacher || student). Within an image: the same over all its
    tokens, `contextual` times. An example's value is the mean over its tokens. With `sampled`, so many tokens drawn
    from the batch are the nodes of its graph, as in the paper, and the others add nothing: a drawn token counts so much
    more that the mean over the batch is that over the nodes. They are drawn by torch's own generator, as dropout is.

    Deviation: the paper's contrast between the two networks' graphs is left out, so no projector is needed: widths may
    differ.

    Args: maps [B, C, H, W] (brought to the smaller resolution) or sequences [B, T, D] of as many tokens.
    Returns [B]. Raises StillhouseError for other shapes, or fewer than two tokens an image.
    """
    ours, theirs = (unit_length(side) for side in _tokens(student, target.detach()))  # [B, T, D] each
    count, tokens = ours.shape[:2]
    every = count * tokens
    nodes = torch.randperm(every, device=ours.device)[:sampled] if sampled else torch.arange(every, device=ours.device)
    found = _over_batch(ours.flatten(0, 1)[nodes], theirs.flatten(0, 1)[nodes], neighbours, temperature)
    values = found.new_zeros(every).index_add(0, nodes, found * (every / len(nodes))).view(count, tokens)
    if contextual:
        within = [side @ side.transpose(1, 2) / temperature for side in (ours, theirs)]  # [B, T, T]
        values = values + contextual * _edges_kl(*within)
    return values.mean(1)


def _tokens(student: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if student.dim() == 4:
        ours, theirs = (side.flatten(2).transpose(1, 2) for side in same_resolution("token_graph", student, target))
    else:
        ours, theirs = at_least_fp32(student), at_least_fp32(target)
    if ours.dim() != 3 or ours.shape[:2] != theirs.shape[:2] or ours.shape[1] < 2:
        raise StillhouseError(
            "token_graph is for feature maps, or for sequences of as many tokens on both sides, two at least; the "
            f"shapes are {tuple(student.shape)} and {tuple(target.shape)}"
        )
    return ours, theirs


def _over_batch(ours: Tensor, theirs: Tensor, neighbours: int, temperature: float) -> Tensor:
    """[N, D] each -> [N]: the KL over the edges to the teacher's nearest tokens, a token's own left out."""
    similar = theirs @ theirs.T
    nearest = similar.fill_diagonal_(-2).topk(min(neighbours, len(theirs) - 1)).indices  # [N, K]
    edges = [(side.unsqueeze(1) * side[nearest]).sum(-1) / temperature for side in (ours, theirs)]
    return _edges_kl(*edges)


def _edges_kl(student: Tensor, target: Tensor) -> Tensor:
    """KL(target || student) of the softmax over the last dimension."""
    log_q, log_p = student.log_softmax(-1), target.log_softmax(-1)
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
