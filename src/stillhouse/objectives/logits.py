"""Losses on logits beyond the plain divergences: hard and virtual targets, decoupled, relational, ranked, multi-label.

As in `divergences`: classes lie over the last dimension, P is the teacher's distribution and Q the student's,
values come unreduced in at least fp32, and gradients flow to the student alone. Where a loss takes `labels`
(class indices [...]), a position without one (-100) is worth zero; whether it counts is for the mask to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.errors import StillhouseError
from stillhouse.objectives.divergences import (
    at_least_fp32,
    correlation,
    cross_entropy,
    forward_kl,
    kl,
    log_probabilities,
    require_same_shape,
    scaled,
    softened,
)


def soft_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    squared: bool = True,
) -> Tensor:
    """-T^2 sum_v P_v log Q_v, Hinton et al. 2015 (arXiv:1503.02531), section 2: `forward_kl` plus the entropy of P.

    Args: as for `forward_kl`. Returns [...], the entropy of P (times T^2) where the distributions are equal.
    """
    log_q, log_p = log_probabilities(student, teacher, temperature, teacher_temperature)
    p = log_p.exp()
    return scaled(-(p * log_q.masked_fill(p == 0, 0.0)).sum(-1), temperature, squared)


def hard_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """-log Q_y at the teacher's most likely class y, Touvron et al. 2021 (DeiT, arXiv:2012.12877), eq. 3.

    The student's side may be the logits of a distillation token, taken from a signal of its own.

    Args: logits [..., V]. Returns [...].
    """
    require_same_shape(student, teacher)
    return cross_entropy(student, teacher.argmax(-1))


def ensemble_kl(student: Tensor, others: Sequence[Tensor], *, temperature: float = 1.0, squared: bool = True) -> Tensor:
    """T^2 KL(P || (Q_1 + ... + Q_(k-1) + Q) / k): the student Q is to add what the earlier ones Q_j lack.

    Stagewise learning of an ensemble whose answer is the mean of its members', as in Dennis et al. 2023 (progressive
    ensemble distillation, arXiv:2302.10093), whose members' logits are added instead.

    Args: logits [..., V]; others are the teacher's, then those of the earlier students. Returns [...].
    """
    teacher, *earlier = others
    log_q, log_p = log_probabilities(student, teacher, temperature)
    known = [softened(one.detach(), temperature) for one in earlier]
    mean = torch.stack([log_q, *known]).logsumexp(0) - math.log(len(known) + 1)
    return scaled(kl(log_p, mean), temperature, squared)


def permuted_kl(
    student: Tensor, teacher: Tensor, *, index: Tensor, temperature: float = 1.0, squared: bool = True
) -> Tensor:
    """`forward_kl` to a teacher whose classes after the most likely one change places.

    Furlanello et al. 2018 (arXiv:1805.04770), section 3.3 (DKPP): how sure the teacher is stays, and which
    classes it finds alike is lost. An example's permutation is a hash of its index, the same in every epoch.

    Args: logits [B, V]; index [B], the examples' positions in their source. Returns [B].
    """
    require_same_shape(student, teacher)
    best = teacher.argmax(-1, keepdim=True)
    places = torch.arange(teacher.shape[-1], device=teacher.device).expand_as(teacher)
    keys = _hashed(index.unsqueeze(-1) * teacher.shape[-1] + places)  # [B, V]
    drawn = keys.scatter(-1, best, -1).argsort(-1)  # the most likely class first, the others in a drawn order
    kept = places.scatter(-1, best, -1).argsort(-1)  # the same, in their own order
    permuted = torch.empty_like(teacher).scatter(-1, kept, teacher.gather(-1, drawn))
    return forward_kl(student, permuted, temperature=temperature, squared=squared)


def _hashed(values: Tensor) -> Tensor:
    """Integers to integers in [0, 2^32) that look random: two rounds of shift and multiplication."""
    for _ in range(2):
        values = ((values ^ (values >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return values ^ (values >> 16)


def virtual_teacher_kl(
    student: Tensor,
    labels: Tensor,
    *,
    correct: float = 0.99,
    temperature: float = 20.0,
    student_temperature: float = 1.0,
) -> Tensor:
    """KL(U || Q) to a teacher made by hand, Yuan et al. 2020 (Tf-KD_reg, arXiv:1909.11723).

    U is the softmax at temperature T of a vector that is `correct` at the label and spreads 1 - correct
    evenly over the other classes. The authors' code softens U alone; their text softens Q too, which is
    `student_temperature`. Their code averages over classes and multiplies by a tuned number: here
    the sum over classes is left to the term's weight.

    Args: student logits [..., V]; labels [...]; 1/V < correct <= 1. Returns [...].
    """
    _require_index(student, labels)
    safe, without = _known(labels)
    log_q = softened(student, student_temperature)
    classes = student.shape[-1]
    made = torch.full_like(log_q, (1 - correct) / (classes - 1)).scatter(-1, safe.unsqueeze(-1), correct)
    return kl(softened(made, temperature), log_q).masked_fill(without, 0.0)


def decoupled(
    student: Tensor, teacher: Tensor, *, labels: Tensor, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD), Zhao et al. 2022 (DKD, arXiv:2203.08679), eq. 7.

    TCKD is the KL between the two sides' (probability of the true class, probability of any other); NCKD is
    the KL among the other classes, renormalised. With alpha = 1 and beta the teacher's probability of the
    other classes it is `forward_kl` (eq. 6).

    Args: logits [..., V], V > 1; labels [...]. Returns [...].
    """
    require_same_shape(student, teacher)
    _require_index(student, labels)
    safe, without = _known(labels)
    ours, theirs = (_parted(at_least_fp32(side) / temperature, safe) for side in (student, teacher.detach()))
    target, others = (forward_kl(own, other) for own, other in zip(ours, theirs, strict=True))
    return (temperature**2 * (alpha * target + beta * others)).masked_fill(without, 0.0)


def standardised_kl(student: Tensor, teacher: Tensor, *, temperature: float = 2.0, unbiased: bool = False) -> Tensor:
    """T^2 KL(P || Q) after each row of logits is brought to mean 0 and deviation 1; Sun et al. 2024
    (arXiv:2403.01427), algorithm 1. Shift and scale of the student's logits are left free.

    Args:
        student, teacher: logits [..., V], all finite.
        temperature: the paper's base temperature.
        unbiased: divide by V - 1 in the variance, as the authors' code does; by V otherwise.

    Returns [...].
    """
    require_same_shape(student, teacher)
    sides = (_standardised(side, unbiased) for side in (student, teacher.detach()))
    return forward_kl(*sides, temperature=temperature)


def dist_inter(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, squared: bool = True) -> Tensor:
    """1 - Pearson correlation of the two distributions of an example, Huang et al. 2022 (DIST, arXiv:2205.10536):
    the inter-class relation. The factor T^2 is in the authors' code, not in the text.

    Args: logits [..., V]. Returns [...] in [0, 2], times T^2; one where a distribution is uniform.
    """
    log_q, log_p = log_probabilities(student, teacher, temperature)
    return scaled(1 - correlation(log_q.exp(), log_p.exp()), temperature, squared)


def dist_intra(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, squared: bool = True) -> Tensor:
    """1 - Pearson correlation, over the batch, of the two sides' probabilities of a class: DIST, intra-class.

    A value for each class, not for each example: its mean over classes is the paper's. The batch is what one
    process sees at once, and at least two examples are needed for anything but ones.

    Args: logits [..., V]. Returns [V] in [0, 2], times T^2.
    """
    log_q, log_p = log_probabilities(student, teacher, temperature)
    columns = (side.exp().flatten(0, -2).T for side in (log_q, log_p))
    return scaled(1 - correlation(*columns), temperature, squared)


def multi_temperature_kl(
    student: Tensor, teacher: Tensor, *, temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0)
) -> Tensor:
    """sum_T T^2 KL(P_T || Q_T), the instance level of Jin et al., CVPR 2023 (multi-level logit distillation).

    Args: logits [..., V]. Returns [...].
    """
    return torch.stack([forward_kl(student, teacher, temperature=t) for t in temperatures]).sum(0)


def batch_gram(
    student: Tensor, teacher: Tensor, *, temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0)
) -> Tensor:
    """The batch level of Jin et al., CVPR 2023: sum over T of squared differences of the Gram matrices Q Q^T, P P^T.

    Entry (i, j) is how alike the predictions for examples i and j are. The mean of the values is the
    paper's ||G_P - G_Q||^2 / N.

    Args: logits [..., V], N leading positions. Returns [N]: a value for each example, row i of the matrix.
    """
    return _gram_differences(student, teacher, temperatures, of_classes=False)


def class_gram(
    student: Tensor, teacher: Tensor, *, temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0)
) -> Tensor:
    """The class level of Jin et al., CVPR 2023: as `batch_gram` of Q^T Q and P^T P, classes alike over the batch.

    The matrices are sums over the batch, as in the paper, so that values grow with its square.

    Args: logits [..., V]. Returns [V]: a value for each class; their mean is the paper's ||M_P - M_Q||^2 / V.
    """
    return _gram_differences(student, teacher, temperatures, of_classes=True)


def plackett_luce(student: Tensor, teacher: Tensor, *, labels: Tensor, teacher_temperature: float = 1.0) -> Tensor:
    """sum_k P_(pi_k) (logsumexp_(j >= k) s_(pi_j) - s_(pi_k)), Bassam et al. 2025 (PLD, arXiv:2506.12542).

    s are the student's logits and pi ranks the true class first and the others as the teacher does. The k-th
    choice of that ranking has, under the Plackett-Luce model, the probability Q_(pi_k) among what is left.
    It is convex in s, and no divergence: its minimum is not zero. With all weight on k = 1 it is `cross_entropy`.

    Args: logits [..., V], all finite; labels [...]. Returns [...].
    """
    require_same_shape(student, teacher)
    _require_index(student, labels)
    safe, without = _known(labels)
    theirs = at_least_fp32(teacher.detach())
    first = torch.zeros_like(theirs, dtype=torch.bool).scatter(-1, safe.unsqueeze(-1), True)
    ranking = theirs.masked_fill(first, torch.inf).sort(stable=True, dim=-1, descending=True).indices
    weights = softened(theirs, teacher_temperature).exp().gather(-1, ranking)
    scores = at_least_fp32(student).gather(-1, ranking)
    left = scores.flip(-1).logcumsumexp(-1).flip(-1)
    return (weights * (left - scores)).sum(-1).masked_fill(without, 0.0)


def target_enhanced(
    student: Tensor,
    teacher: Tensor,
    *,
    labels: Tensor,
    gamma: float = 1.0,
    temperature: float = 1.0,
    published: Literal["text", "code"] = "text",
) -> Tensor:
    """Soft cross-entropy that stresses the true class y, Hao et al. 2023 (one-for-all, arXiv:2310.19444).

    The text: -(1 + P_y)^gamma log Q_y - sum_(v != y) P_v log Q_v, which holds the labels' cross-entropy.
    The authors' code: -((1 + P_y)^gamma - 1) log Q_y - sum_(v != y) P_v^gamma log Q_v, which does not.

    Args: logits [..., V]; labels [...]. Returns [...].
    """
    log_q, log_p = log_probabilities(student, teacher, temperature)
    _require_index(student, labels)
    safe, without = _known(labels)
    p, index = log_p.exp(), safe.unsqueeze(-1)
    enhanced = (1 + p.gather(-1, index)) ** gamma
    if published == "text":
        wanted = p.scatter(-1, index, enhanced)
    else:
        wanted = (p**gamma).scatter(-1, index, enhanced - 1)
    return -(wanted * log_q.masked_fill(wanted == 0, 0.0)).sum(-1).masked_fill(without, 0.0)


def conditional_information(student: Tensor, labels: Tensor) -> Tensor:
    """KL(Q || M_y), M_y the mean of Q over the batch's examples of the same class y, held fixed.

    Ye et al. 2024 (MCMI, arXiv:2401.08732), section 4: its mean estimates I(X; Y' | Y), what a classifier's answer Y'
    tells of an image beyond its class Y. A weight below zero raises it in a teacher to be. The classes' means come
    from the batch, so batches should hold several examples of a class.

    Args: logits [B, V]; labels [B]. Returns [B], zero where all examples of a class are answered alike.
    """
    log_q = softened(student, 1.0)
    q = log_q.exp()
    alike = (labels.unsqueeze(0) == labels.unsqueeze(1)).to(q.dtype)  # [B, B]
    mean = (alike @ q.detach()) / alike.sum(-1, keepdim=True)
    values = (q * (log_q - mean.log().clamp(min=torch.finfo(q.dtype).min))).sum(-1)
    return values.masked_fill(labels < 0, 0.0)


def binary_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, squared: bool = True) -> Tensor:
    """T^2 sum_v KL(Bernoulli(P_v) || Bernoulli(Q_v)) of sigmoid outputs, Yang et al. 2023 (arXiv:2308.06453).

    For multi-label answers, where classes do not exclude each other.

    Args: logits [..., V]. Returns [...].
    """
    require_same_shape(student, teacher)
    ours, theirs = (torch.stack([side, torch.zeros_like(side)], -1) for side in (student, teacher))
    return forward_kl(ours, theirs, temperature=temperature, squared=squared).sum(-1)


def binary_kl_norm(student: Tensor, teacher: Tensor, *, temperature: float = 2.0) -> Tensor:
    """T^2 sum_v KL(Bernoulli(1/2) || Bernoulli(sigmoid((s_v - t_v) / T))), BinaryKL-Norm of Yang et al. 2024
    (DHKD, arXiv:2411.08937): a loss on the logits themselves, zero where s = t.

    Args: logits [..., V], all finite. Returns [...].
    """
    require_same_shape(student, teacher)
    gap = (at_least_fp32(student) - at_least_fp32(teacher.detach())) / temperature
    return temperature**2 * ((functional.softplus(gap) + functional.softplus(-gap)) / 2 - math.log(2)).sum(-1)


def binary_cross_entropy(student: Tensor, target: Tensor) -> Tensor:
    """-sum_v (y_v log Q_v + (1 - y_v) log(1 - Q_v)), Q the sigmoid: multi-label answers against the data's labels.

    Args: logits [..., V]; target [..., V] of zeros and ones, or probabilities. Returns [...].
    """
    require_same_shape(student, target)
    logits = at_least_fp32(student)
    wanted = target.detach().to(logits.dtype)
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1)


def bounded_regression(student: Tensor, teacher: Tensor, *, labels: Tensor, margin: float = 0.0) -> Tensor:
    """||s - y||^2 where ||s - y||^2 + margin > ||t - y||^2, else 0; Chen et al. 2017 (NeurIPS).

    The teacher's error is a bound: a student that is better by the margin is let alone.

    Args:
        student, teacher: answers s and t [..., D].
        labels: true values y [..., D], or [...] where D = 1.

    Returns [...]. Raises StillhouseError when the labels do not fit.
    """
    require_same_shape(student, teacher)
    truth = labels.unsqueeze(-1) if labels.shape == student.shape[:-1] and student.shape[-1] == 1 else labels
    require_same_shape(student, truth)
    ours, theirs = ((at_least_fp32(side) - truth.detach()).square().sum(-1) for side in (student, teacher.detach()))
    return torch.where(ours.detach() + margin > theirs, ours, torch.zeros_like(ours))


def _known(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Class indices with zero for what has none, and where that is."""
    without = labels < 0
    return labels.masked_fill(without, 0), without


def _require_index(student: Tensor, labels: Tensor) -> None:
    if labels.shape != student.shape[:-1] or labels.is_floating_point():
        raise StillhouseError(
            f"labels of shape {tuple(labels.shape)} and type {labels.dtype} do not fit logits of shape "
            f"{tuple(student.shape)}: this loss needs one class index for each position"
        )


def _parted(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [..., 2] of the labelled class against all others together, and the others' own [..., V - 1]."""
    index = labels.unsqueeze(-1)
    rest = torch.arange(logits.shape[-1] - 1, device=logits.device)
    others = logits.gather(-1, rest + (rest >= index))
    return torch.cat([logits.gather(-1, index), others.logsumexp(-1, keepdim=True)], -1), others


def _standardised(logits: Tensor, unbiased: bool) -> Tensor:
    logits = at_least_fp32(logits)
    deviation = logits.std(-1, keepdim=True, correction=int(unbiased))
    return (logits - logits.mean(-1, keepdim=True)) / (deviation + 1e-7)


def _gram_differences(student: Tensor, teacher: Tensor, temperatures: tuple[float, ...], of_classes: bool) -> Tensor:
    """The row sums of squared differences of the two Gram matrices, summed over temperatures."""
    values = []
    for temperature in temperatures:
        sides = log_probabilities(student, teacher, temperature)
        q, p = (side.exp().flatten(0, -2) for side in sides)
        grams = [x.T @ x if of_classes else x @ x.T for x in (q, p)]
        values.append((grams[0] - grams[1]).square().sum(-1))
    return torch.stack(values).sum(0)
