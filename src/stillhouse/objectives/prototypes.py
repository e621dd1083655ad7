"""Distributions over prototypes, for self-distillation without labels: DINO, Caron et al. 2021 (arXiv:2104.14294)."""

from __future__ import annotations

from torch import Tensor

from stillhouse.objectives.divergences import at_least_fp32


def prototype_cross_entropy(scores: Tensor, target: Tensor, *, temperature: float = 0.1) -> Tensor:
    """-sum_k P_k log softmax(scores / temperature)_k: DINO's eqs. 1 and 2, one term.

    Args: the student's scores [..., K]; the teacher's distribution [..., K], which takes no gradient. Returns [...].
    """
    log_q = (at_least_fp32(scores) / temperature).log_softmax(-1)
    return -(target.detach().to(log_q.dtype) * log_q).sum(-1)


def evenly_assigned(scores: Tensor, temperature: float, *, rounds: int = 3) -> Tensor:
    """Distributions [N, K] of scores [N, K] that use every prototype as much as any other, over all N together.

    Sinkhorn-Knopp on exp(scores / temperature), as Caron et al. 2020 (SwAV, arXiv:2006.09882), section 3.1: by turns
    columns are made to sum to N / K and rows to 1, the rows last. In logarithms, so that no entry vanishes.
    """
    log_p = at_least_fp32(scores.detach()) / temperature
    for _ in range(rounds):
        log_p = log_p - log_p.logsumexp(0, keepdim=True)
        log_p = log_p.log_softmax(1)
    return log_p.exp()
