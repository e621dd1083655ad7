"""Losses on logits that train parts of their own, which are gone at export."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from stillhouse.objectives.divergences import at_least_fp32, require_same_shape


class Discriminator(nn.Module):
    """Whose logits are these? Shen & Savvides 2020 (MEAL V2, arXiv:2009.08453), section 3.3.

    The value is -log D(s) - log(1 - D(t)), the cross-entropy of telling the student's logits s from the teacher's t.
    Its parameters lower it and the student, to whom its gradient comes with the opposite sign, raises it (Ganin &
    Lempitsky 2015, arXiv:1409.7495, eq. 9): the adversarial game of the text in one backward pass. The authors' code
    has no such sign: there the student lowers the value too.

    Args of forward: logits [..., V] of both sides. Returns [...], 2 log 2 where they cannot be told apart.
    """

    def __init__(self, student: Tensor, target: Tensor, *, width: int = 16) -> None:
        super().__init__()
        require_same_shape(student, target)
        self.told = nn.Sequential(nn.Linear(student.shape[-1], width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        reversed_sign = 2 * student.detach() - student
        ours, theirs = (at_least_fp32(self.told(side).squeeze(-1)) for side in (reversed_sign, target.detach()))
        return functional.softplus(-ours) + functional.softplus(theirs)
