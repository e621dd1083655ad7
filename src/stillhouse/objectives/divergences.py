"""Divergences between a student's and a teacher's answers.

Every function takes logits over the last dimension, computes in at least fp32, gives one value
for each of the leading positions (nothing is reduced: masks and weights are the engine's), lets
gradients flow to the student alone, and counts a class of probability zero as adding nothing.
P is the teacher's distribution, Q the student's; T is the temperature that divides both logits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.errors import StillhouseError


def forward_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    squared: bool = True,
) -> Tensor:
    """T^2 KL(P || Q), Hinton et al. 2015 (arXiv:1503.02531), section 2.

    The factor T^2 keeps the gradient's size as T grows, as the paper advises.

    Args:
        student, teacher: logits [..., V].
        temperature: T, of both sides.
        teacher_temperature: the teacher's where it is another; T and the factor are then the student's.
        squared: whether to multiply by T^2.

    Returns [...], zero where the distributions are equal.
    """
    log_q, log_p = log_probabilities(student, teacher, temperature, teacher_temperature)
    return scaled(kl(log_p, log_q), temperature, squared)


def reverse_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(Q || P): the student is drawn to modes of the teacher (Gu et al. 2023, arXiv:2306.08543).

    Args: logits [..., V]. Returns [...]; infinite where Q has mass on a class that P excludes.
    """
    log_q, log_p = log_probabilities(student, teacher, temperature)
    return temperature**2 * kl(log_q, log_p)


def generalised_jsd(student: Tensor, teacher: Tensor, *, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """T^2 (beta KL(P || M) + (1 - beta) KL(Q || M)), M = beta P + (1 - beta) Q, 0 < beta < 1.

    Agarwal et al. 2024 (arXiv:2306.13649), eq. 1, with their P the teacher and their Q the student.
    The endpoints are zero and have functions of their own: divided by beta it tends to the forward
    KL as beta goes to 0, divided by 1 - beta to the reverse KL as beta goes to 1.

    Args: logits [..., V]. Returns [...], at most -T^2 (beta log beta + (1 - beta) log(1 - beta)).
    """
    log_q, log_p = log_probabilities(student, teacher, temperature)
    log_m = mixture(log_p, log_q, beta)
    return temperature**2 * (beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m))


def skew_kl(student: Tensor, teacher: Tensor, *, alpha: float = 0.1, temperature: float = 1.0) -> Tensor:
    """T^2 KL(P || alpha P + (1 - alpha) Q), Ko et al. 2024 (DistiLLM, arXiv:2402.03898), section 3.1.

    Bounded by -log alpha, and so is its gradient; as alpha goes to 0 it tends to `forward_kl`. The authors'
    code leaves out the entropy of P, which has no gradient.

    Args: logits [..., V]; 0 < alpha < 1. Returns [...].
    """
    log_q, log_p = log_probabilities(student, teacher, temperature)
    return temperature**2 * kl(log_p, mixture(log_p, log_q, alpha))


def skew_reverse_kl(student: Tensor, teacher: Tensor, *, alpha: float = 0.1, temperature: float = 1.0) -> Tensor:
    """T^2 KL(Q || (1 - alpha) P + alpha Q): the skewed `reverse_kl` of the same paper.

    Args: logits [..., V]; 0 < alpha < 1. Returns [...].
    """
    log_q, log_p = log_probabilities(student, teacher, temperature)
    return temperature**2 * kl(log_q, mixture(log_p, log_q, 1 - alpha))


def alpha_beta(
    student: Tensor,
    teacher: Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float = 1.0,
    squared: bool = True,
) -> Tensor:
    """T^2 times the alpha-beta divergence of Wang et al. 2025 (ABKD, arXiv:2505.04560), alpha > 0, beta > 0.

    -1 / (alpha beta) sum_v [P^alpha Q^beta - alpha / (alpha + beta) P^(alpha + beta)
                             - beta / (alpha + beta) Q^(alpha + beta)].
    It tends to the forward KL at (1, 0) and to the reverse KL at (0, 1), which have functions of their own.
    With alpha + beta = 1 it is an f-divergence, and T^2 keeps the gradient's size as in `forward_kl`.

    Args: logits [..., V]. Returns [...], zero where the distributions are equal.
    """
    log_q, log_p = log_probabilities(student, teacher, temperature)
    total = alpha + beta
    both = (alpha * log_p + beta * log_q).exp()
    each = (alpha * (total * log_p).exp() + beta * (total * log_q).exp()) / total
    return scaled((each - both).sum(-1) / (alpha * beta), temperature, squared)


def total_variation(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """1/2 sum_v |P_v - Q_v|, at most one; Wen et al. 2023 (f-DISTILL, arXiv:2307.15190), section 3.

    There is no factor for the temperature: the gradient has a jump where P_v = Q_v and no quadratic limit.

    Args: logits [..., V]. Returns [...].
    """
    log_q, log_p = log_probabilities(student, teacher, temperature)
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def cross_entropy(student: Tensor, target: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """-sum_v P_v log Q_v against class indices or given probabilities.

    Args:
        student: logits [..., V].
        target: integer class indices [...], or probabilities [..., V].
        label_smoothing: the share of P that is spread evenly over all classes (Szegedy et al. 2016).

    Returns [...]. Where the index is -100 the value is zero; whether it counts is for the mask to say.
    Raises StillhouseError when the shapes do not fit.
    """
    logits = at_least_fp32(student)
    if target.is_floating_point():
        require_same_shape(student, target)
        p = target.detach().to(logits.dtype)
        p = p + label_smoothing * (1 / p.shape[-1] - p) if label_smoothing else p
        return -(p * logits.log_softmax(-1).masked_fill(p == 0, 0.0)).sum(-1)
    if target.shape != student.shape[:-1]:
        raise StillhouseError(
            f"cross_entropy: class indices of shape {tuple(target.shape)} do not fit logits of shape "
            f"{tuple(student.shape)}; one index for each position is needed"
        )
    if logits.dim() > 2:
        logits, target = logits.flatten(0, -2), target.flatten()
    values = functional.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)
    return values if student.dim() <= 2 else values.view(student.shape[:-1])


def mse(student: Tensor, target: Tensor, *, each_position: bool = False) -> Tensor:
    """Squared difference, averaged over all dimensions but the first; of logits, Ba & Caruana 2014 (arXiv:1312.6184).

    Args: tensors [B, ...] of one shape. Returns [B]; of logits [..., V], [...] with `each_position`.
    Raises StillhouseError when the shapes differ: nothing is broadcast.
    """
    return _averaged(_difference(student, target).square(), each_position)


def l1(student: Tensor, target: Tensor, *, each_position: bool = False) -> Tensor:
    """Absolute difference, averaged as by `mse`.

    Args: tensors [B, ...] of one shape. Returns [B]; of logits [..., V], [...] with `each_position`.
    Raises StillhouseError when the shapes differ: nothing is broadcast.
    """
    return _averaged(_difference(student, target).abs(), each_position)


def sparse_forward_kl(student: Tensor, log_probs: Tensor, indices: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(P || Q) with all classes outside the teacher's top k counted as one.

    By the data-processing inequality it is at most the full KL, and equal to it for k = V. Unlike the KL
    of renormalised top-k probabilities it does not reward the student for mass outside them.

    Args:
        student: logits [..., V].
        log_probs: the teacher's largest log-probabilities [..., k], taken at this temperature from the
            softmax over all V classes; the mass they leave is the tail's.
        indices: their classes [..., k], each once a position.

    Returns [...].
    """
    logits = at_least_fp32(student) / temperature
    log_p = at_least_fp32(log_probs.detach()).to(logits.dtype)
    log_z = logits.logsumexp(-1, keepdim=True)
    value = kl(log_p, logits.gather(-1, indices) - log_z)
    if indices.shape[-1] < logits.shape[-1]:
        log_tail_p = torch.log(-torch.expm1(log_p.logsumexp(-1).clamp(max=0.0)))
        rest = logits.scatter(-1, indices, -math.inf)
        log_tail_q = rest.logsumexp(-1) - log_z.squeeze(-1)
        value = value + kl(log_tail_p.unsqueeze(-1), log_tail_q.unsqueeze(-1))
    return temperature**2 * value


def at_least_fp32(x: Tensor) -> Tensor:
    """The tensor in fp32 where it is coarser, else as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _difference(student: Tensor, target: Tensor) -> Tensor:
    require_same_shape(student, target)
    return at_least_fp32(student) - at_least_fp32(target.detach())


def _averaged(values: Tensor, each_position: bool) -> Tensor:
    if each_position:
        return values.mean(-1)
    return values.flatten(1).mean(1) if values.dim() > 1 else values


def log_probabilities(
    student: Tensor, teacher: Tensor, temperature: float, teacher_temperature: float | None = None
) -> tuple[Tensor, Tensor]:
    """log Q and log P [..., V] at the temperature, in at least fp32; no gradient to the teacher."""
    require_same_shape(student, teacher)
    return softened(student, temperature), softened(teacher.detach(), teacher_temperature or temperature)


def softened(logits: Tensor, temperature: float) -> Tensor:
    """The logarithm of the softmax of logits / T [..., V], in at least fp32."""
    logits = at_least_fp32(logits)
    return (logits if temperature == 1 else logits / temperature).log_softmax(-1)


def scaled(values: Tensor, temperature: float, squared: bool) -> Tensor:
    """The values times T^2, or as they are."""
    return temperature**2 * values if squared else values


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """sum_v a_v (log a_v - log b_v); where a_v is zero, neither value nor gradient, whatever b_v is.

    Masking costs two more passes over the vocabulary: it is done where a class is excluded, which shows as NaN.
    """
    a = log_a.exp()
    value = (a * (log_a - log_b)).sum(-1)
    if not value.isnan().any():
        return value
    return (a * (log_a - log_b).masked_fill_(a == 0, 0.0)).sum(-1)


def mixture(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """log(beta P + (1 - beta) Q), and a finite number without gradient where both are zero."""
    m = beta * log_p.exp() + (1 - beta) * log_q.exp()
    return m.clamp(min=torch.finfo(m.dtype).tiny).log()


def require_same_shape(student: Tensor, target: Tensor) -> None:
    if not isinstance(student, Tensor) or not isinstance(target, Tensor):
        raise StillhouseError("this loss compares one signal with one: write a term for each of the signals listed")
    if student.shape != target.shape:
        raise StillhouseError(
            f"the student gives {tuple(student.shape)} and its target {tuple(target.shape)}: shapes must be equal "
            "(another number of classes, another vocabulary, or a tap at another width?)"
        )


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's over the last dimension; zero, without gradient, where one side is constant."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return functional.cosine_similarity(a, b, dim=-1)
