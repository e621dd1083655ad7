"""Train-only maps from the student's features to the teacher's width."""

from __future__ import annotations

from torch import Tensor, nn

from stillhouse.errors import StillhouseError


def projector(how: str, student: Tensor, teacher: Tensor) -> nn.Module:
    """`linear`: on the last dimension of [..., D]; `conv`: a 1 x 1 convolution on [B, C, H, W]; `exit`: an exit branch
    from a feature map [B, C, H, W], or a vector [B, D], to logits [B, V].

    Raises StillhouseError when the remaining dimensions differ, or an exit is not from a map or vector to logits.
    """
    if how == "exit":
        return exit_branch(student, teacher)
    channel = -1 if how == "linear" else 1
    if how == "conv" and (student.dim() != 4 or teacher.dim() != 4):
        raise StillhouseError(
            f"`project: conv` needs feature maps [B, C, H, W]; the student's has shape {tuple(student.shape)}, "
            f"the teacher's {tuple(teacher.shape)}. Vectors take `project: linear`"
        )
    ours, theirs = list(student.shape), list(teacher.shape)
    width, target = ours.pop(channel), theirs.pop(channel)
    if ours != theirs:
        raise StillhouseError(
            f"features of shape {tuple(student.shape)} and {tuple(teacher.shape)} differ in more than their width: "
            "tap layers of the same resolution"
        )
    return nn.Linear(width, target, bias=False) if how == "linear" else nn.Conv2d(width, target, 1, bias=False)


def exit_branch(student: Tensor, teacher: Tensor) -> nn.Module:
    """From features [B, C, H, W] or [B, D] to the teacher's logits [B, V]: a way out of the middle of a network.

    After Hao et al. 2023 (one-for-all, arXiv:2310.19444), section 3.2: what is particular to an architecture stays
    behind in the branch. A 3 x 3 convolution of stride 2 that doubles the width (of vectors, a linear layer that does),
    batch norm, ReLU, the mean over positions, a linear layer; the authors use a depthwise separable block for each
    stage that remains.
    """
    if student.dim() not in (2, 4) or teacher.dim() != 2:
        raise StillhouseError(
            f"`project: exit` leads from a feature map [B, C, H, W] or a vector [B, D] to logits [B, V]; the student's "
            f"signal has shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}: tap a convolution or a "
            "linear layer, and set `teacher_signal: logits`"
        )
    width = student.shape[1]
    if student.dim() == 2:
        return nn.Sequential(
            nn.Linear(width, 2 * width, bias=False),
            nn.BatchNorm1d(2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, teacher.shape[-1]),
        )
    return nn.Sequential(
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, teacher.shape[-1]),
    )


def perceptron(inside: int, hidden: int, outside: int, act: nn.Module | None = None) -> nn.Module:
    """Two linear layers; ReLU between them where no other activation is given."""
    return nn.Sequential(nn.Linear(inside, hidden), act or nn.ReLU(), nn.Linear(hidden, outside))
