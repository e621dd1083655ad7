"""Lower bounds on the mutual information between teacher and student, as terms."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stillhouse.errors import StillhouseError
from stillhouse.objectives.divergences import at_least_fp32


def interpolated_bound(scores: Tensor, log_baseline: Tensor, *, alpha: float) -> Tensor:
    """I_alpha, the bound between InfoNCE (alpha = 1) and TUBA (alpha = 0): Poole et al. 2019, arXiv:1905.06922.

    Their eq. 11 with leave-one-out means, as in their published program. Row i is an example y_i and column j an
    example x_j, x_i and y_i being a pair; with m_i,-j the mean over k other than j of exp(scores_ik) and
    b_ij = alpha m_i,-j + (1 - alpha) q_i, row i is

        1 + mean over j != i of (scores_ii - log b_ij) - mean over j != i of exp(scores_ij) / b_ii.

    A small alpha has less bias and more variance; with alpha > 0 no row exceeds log((B - 1) / alpha) + 1.

    Args:
        scores: [B, B] of the critic, B at least 2.
        log_baseline: [B], log q of each row.
        alpha: 0 to 1.

    Returns [B], nats; the mean is the bound. Raises StillhouseError for a batch of one.
    """
    count = len(scores)
    if count < 2:
        raise StillhouseError(
            "mi_alpha compares the examples of a batch, and this batch has one: raise train.batch_size"
        )
    log_alpha, log_rest = (math.log(share) if share else -math.inf for share in (alpha, 1 - alpha))
    log_b = torch.logaddexp(log_alpha + _left_out(scores), log_rest + log_baseline.unsqueeze(1))
    joint = scores.diagonal() - (log_b.sum(1) - log_b.diagonal()) / (count - 1)
    itself = torch.eye(count, dtype=torch.bool, device=scores.device)
    ratio = (scores - log_b.diagonal().unsqueeze(1)).masked_fill(itself, -math.inf).exp()
    return 1 + joint - ratio.sum(1) / (count - 1)


def _left_out(scores: Tensor) -> Tensor:
    """log of the mean of exp(scores_ik) over all k but j, [B, B]: no difference of nearly equal numbers is taken."""
    whole = scores.logsumexp(1, keepdim=True)
    largest = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, scores.argmax(1, keepdim=True), True)
    share = (scores - whole).exp().masked_fill(largest, 0.0)  # at most one half
    others = scores.masked_fill(largest, -math.inf).logsumexp(1, keepdim=True)
    return torch.where(largest, others, whole + torch.log1p(-share)) - math.log(len(scores) - 1)


class MutualInformation(nn.Module):
    """MI-alpha, He et al. 2021 (Distiller, arXiv:2109.11105): the negative of I_alpha between two sides' features.

    The critic is a product of embeddings, one perceptron with two hidden layers a side; log q is a third one, of the
    teacher's features. All three are trained with the student and gone at export.

    Deviations: features are flattened, where the authors take a text's first token. Their program lays the student
    along the rows of the critic's scores and the teacher's baseline as well; here rows are the teacher's, whose
    baseline it is, as in the bound they take up.

    Args of forward: features [B, ...] of both sides. Returns [B]; the mean is the loss.
    """

    def __init__(
        self, student: Tensor, teacher: Tensor, *, alpha: float = 0.9, hidden: int = 512, width: int = 32
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.embed_student = _perceptron(student, hidden, width)
        self.embed_teacher = _perceptron(teacher, hidden, width)
        self.log_baseline = _perceptron(teacher, hidden, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            theirs = at_least_fp32(teacher.detach())
            scores = self.embed_teacher(theirs) @ self.embed_student(at_least_fp32(student)).T
            return -interpolated_bound(scores, self.log_baseline(theirs).squeeze(1), alpha=self.alpha)


def _perceptron(features: Tensor, hidden: int, width: int) -> nn.Sequential:
    """[B, ...] to [B, width]."""
    inside = features[0].numel()
    layers = [nn.Linear(inside, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width)]
    return nn.Sequential(nn.Flatten(1), *layers)
