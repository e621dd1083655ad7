"""Train-only maps from the student's features to the teacher's width."""

from __future__ import annotations

from torch import Tensor, nn

from stillhouse.errors import StillhouseError


def projector(how: str, student: Tensor, teacher: Tensor) -> nn.Module:
    """`linear`: on the last dimension of [..., D]; `conv`: a 1 x 1 convolution on [B, C, H, W].

    Raises StillhouseError when the remaining dimensions differ.
    """
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
