"""Weights of single examples from logits and labels: one value for each leading position. A term takes them as given:
no gradient flows through a gate.

Logits are [..., V], labels class indices [...], -100 where there is none; weights come in at least fp32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from stillhouse.errors import StillhouseError
from stillhouse.objectives.divergences import at_least_fp32, cross_entropy, softened


def confidence(logits: Tensor, *, at_least: float | None = None, temperature: float = 1.0) -> Tensor:
    """max_v P_v, or whether it reaches a bound. [..., V] -> [...]."""
    largest = softened(logits, temperature).amax(-1).exp()
    return largest if at_least is None else (largest >= at_least).to(largest.dtype)


def entropy(
    logits: Tensor, *, favours: Literal["certain", "uncertain"] = "certain", temperature: float = 1.0
) -> Tensor:
    """1 - H(P) / log V, or H(P) / log V. [..., V] -> [...] in [0, 1]."""
    log_p = softened(logits, temperature)
    p = log_p.exp()
    share = -(p * log_p.masked_fill(p == 0, 0.0)).sum(-1) / math.log(logits.shape[-1])
    return share if favours == "uncertain" else 1 - share


def highest_entropy(logits: Tensor, *, share: float) -> Tensor:
    """N / K where H(P) is among the K = ceil(share N) largest of the N positions, zero elsewhere. [..., V] -> [...]."""
    found = entropy(logits, favours="uncertain")
    kept = math.ceil(share * found.numel())
    weights = torch.zeros_like(found).flatten()
    weights[found.flatten().topk(kept).indices] = found.numel() / kept
    return weights.view_as(found)


def entropy_gap(
    student: Tensor, teacher: Tensor, *, teacher_higher: float, student_higher: float, temperature: float = 1.0
) -> Tensor:
    """`teacher_higher` where H(P) > H(Q), P the teacher's and Q the student's answer, else `student_higher`.

    Amara et al. 2022 (BD-KD, arXiv:2212.12965), section 3. [..., V], [..., V] -> [...].
    """
    theirs, ours = (entropy(side, favours="uncertain", temperature=temperature) for side in (teacher, student))
    return torch.where(theirs > ours, teacher_higher, student_higher).to(ours.dtype)


def disagreement(student: Tensor, teacher: Tensor, *, apart: float = 2.0, same: float = 1.0) -> Tensor:
    """`apart` where the largest logits stand at different classes, `same` elsewhere. [..., V], [..., V] -> [...]."""
    differs = student.argmax(-1) != teacher.argmax(-1)
    return torch.where(differs, apart, same).to(at_least_fp32(student).dtype)


def correct(logits: Tensor, labels: Tensor, *, right: float = 1.0, wrong: float = 0.0) -> Tensor:
    """`right` where the largest logit is the label's, `wrong` elsewhere. [..., V], [...] -> [...]."""
    hit = logits.argmax(-1) == labels
    return torch.where(hit, right, wrong).to(at_least_fp32(logits).dtype)


def bias_variance(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """1 - exp(-H(y, Q) / H(y, P)), Zhou et al. 2021 (arXiv:2102.00650): little where the student is
    surer of the label than the teacher, so that soft labels regularise where variance needs it. At most one.

    [..., V], [..., V], [...] -> [...].
    """
    ours, theirs = (cross_entropy(side, labels) for side in (student, teacher))
    return -torch.expm1(-ours / theirs.clamp(min=torch.finfo(theirs.dtype).eps))


def class_balanced(classes: Tensor, *, counts: Sequence[int], beta: float) -> Tensor:
    """(1 - beta) / (1 - beta^n_y) for n_y examples of class y, scaled to a mean of one over the classes.

    Cui et al. 2019 (arXiv:1901.05555), eq. 6.

    Args: class indices [...], or logits [..., V] whose most likely class is meant. Returns [...].
    Raises StillhouseError where there is a class without a count.
    """
    shares = torch.tensor([(1 - beta) / (1 - beta**count) for count in counts], device=classes.device)
    known = classes.shape[-1] if classes.is_floating_point() else int(classes.max()) + 1
    if known > len(counts):
        raise StillhouseError(f"class_balanced: counts are given for {len(counts)} classes, and there are {known}")
    index = classes.argmax(-1) if classes.is_floating_point() else classes.clamp(min=0)
    return (shares / shares.mean())[index]
