"""Relations between the examples of a batch, or the tokens of an example, in the student and in the teacher.

Every function compares how things stand to each other within each side, so the two sides may differ in width.
It computes in at least fp32 (also under autocast), lets gradients flow to the student alone, and gives one value
an example [B]: its row of the matrix of relations, averaged. Where the paper sums or divides otherwise, the
docstring says by what constant; the mean over the batch times it is the paper's loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.errors import StillhouseError
from stillhouse.objectives.divergences import at_least_fp32

Sides = Tensor | Sequence[Tensor]


def relational_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber difference of normalised distances, Park et al. 2019 (arXiv:1904.05068), eqs. 5 to 8 (RKD-D).

    psi(i, j) = |x_i - x_j| / mu, mu the mean of the batch's distances that are not zero; row i is the mean over all
    j (j = i among them, which adds zero) of huber(psi_S(i, j) - psi_T(i, j)) with its bend at 1.

    Scale: the mean over rows is that of the authors' code, whose example gives it weight 1 (the benchmark of Tian et
    al. 2020, arXiv:1910.10699, 25); the paper writes the sum over ordered pairs, B^2 times this. The paper's mu takes
    the mean over all pairs: the two differ where two examples have the same features. A pair at distance zero passes no
    gradient.

    Args: features [B, ...], flattened. Returns [B].
    """
    ours, theirs = _rows(student, teacher)
    with _exactly(ours):
        return functional.smooth_l1_loss(_distances(ours), _distances(theirs), reduction="none").mean(1)


def relational_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber difference of the angles of triplets, Park et al. 2019 (arXiv:1904.05068), eqs. 9 and 10 (RKD-A).

    psi(i, j, k) = <e_ij, e_kj>, e_ij = (x_i - x_j) / |x_i - x_j| and zero where the two are equal; row j is the mean
    over all i and k of huber(psi_S - psi_T) with its bend at 1.

    Scale: the mean over rows is that of the authors' code (triplets with i = j or k = j add zero, those with i = k
    add nothing but are counted), whose example gives it weight 2 (the benchmark of Tian et al. 2020 50); the paper sums
    over triplets, B^3 times this.
    Needs B^3 + B^2 D numbers.

    Args: features [B, ...], flattened. Returns [B], by the vertex of the angle.
    """
    ours, theirs = _rows(student, teacher)
    with _exactly(ours):
        return functional.smooth_l1_loss(_angles(ours), _angles(theirs), reduction="none").mean((1, 2))


def correlation_congruence(student: Tensor, teacher: Tensor, *, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Squared difference of kernel matrices, Peng et al. 2019 (arXiv:1904.01802), the term L_CC of eq. 7.

    k(x, y) = sum over p from 0 to `order` of exp(-2 gamma) (2 gamma)^p / p! (x.y)^p on features of unit length, the
    Taylor series of exp(-gamma |x - y|^2); row i is the mean over j of (k_S(i, j) - k_T(i, j))^2.

    Scale: the mean over rows is the paper's loss, the squared Frobenius norm divided by B^2. The common
    re-implementation in torchdistill takes the norm itself, not its square, and does not normalise the features.
    A feature vector of zeros counts as orthogonal to all and passes no gradient.

    Args:
        student, teacher: features [B, ...], flattened.
        gamma: width of the kernel.
        order: highest power of the series.

    Returns [B].
    """
    ours, theirs = _rows(student, teacher)
    with _exactly(ours):
        return (_kernel(ours, gamma, order) - _kernel(theirs, gamma, order)).square().mean(1)


def centred_alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the linear centred kernel alignment, Kornblith et al. 2019 (arXiv:1905.00414), eq. 3.

    With K = X X^T of features centred over the batch, CKA = sum(K_S K_T) / (|K_S| |K_T|), Frobenius norms; row i is
    1 - B sum over j of K_S(i, j) K_T(i, j) / (|K_S| |K_T|), which may be negative; the mean over rows is 1 - CKA.
    Orthogonal maps and scales of the features do not change it. A side whose examples are all alike counts as
    unaligned and passes no gradient.

    Args: features [B, ...], flattened. Returns [B].
    """
    sides = _rows(student, teacher)
    with _exactly(sides[0]):
        ours, theirs = (x @ x.T for x in (side - side.mean(0) for side in sides))
        size = ours.square().sum() * theirs.square().sum()
        return 1 - len(ours) * (ours * theirs).sum(1) * size.masked_fill(size == 0, math.inf).rsqrt()


def _rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides as [B, D] in one dtype, the teacher's without gradient."""
    if len(student) != len(teacher):
        raise StillhouseError(
            f"the student gives {len(student)} examples and the teacher {len(teacher)}: "
            "relations are taken over one and the same batch"
        )
    ours = at_least_fp32(student).flatten(1)
    return ours, teacher.detach().to(ours.dtype).flatten(1)


def _exactly(x: Tensor) -> torch.autocast:
    """No autocast within: differences of products of nearly equal rows are lost in half precision."""
    return torch.autocast(x.device.type, enabled=False)


def _distances(x: Tensor) -> Tensor:
    """Euclidean distances [B, B] over their mean where not zero; without the expansion into squares, that cancels."""
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    apart = (distances > 0).sum()
    return distances * (apart / distances.sum().masked_fill(apart == 0, 1.0))


def _angles(x: Tensor) -> Tensor:
    """Cosines [B, B, B] at vertex j between the directions to i and to k, as [j, i, k]."""
    away = x.unsqueeze(0) - x.unsqueeze(1)
    length = away.square().sum(-1, keepdim=True)
    direction = away * length.masked_fill(length == 0, math.inf).rsqrt()
    return direction @ direction.transpose(1, 2)


def _kernel(x: Tensor, gamma: float, order: int) -> Tensor:
    unit = unit_length(x)
    cosines = unit @ unit.T
    terms = [(2 * gamma) ** p / math.factorial(p) * cosines**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(0)


def unit_length(x: Tensor) -> Tensor:
    """The vectors [..., D] over their length; a vector of zeros stays one and passes no gradient."""
    length = x.square().sum(-1, keepdim=True)
    return x * length.masked_fill(length == 0, math.inf).rsqrt()
