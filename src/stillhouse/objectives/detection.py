"""Losses of object detectors, on labels and against a teacher.

A batch has `boxes` [B, M, 4], corners in shares of width and height, and `labels` [B, M], -100 where an image has fewer
than M objects. A detector that looks at every place of a grid (`dense`) yields `logits` [B, P, C], one sigmoid a class;
`edges` [B, P, 4, n], logits of each edge's distance from the place in 0 to n - 1 units (left, top, right, bottom);
`places` [B, P, 4], a place's x and y and the unit's width and height; and `boxes` [B, P, 4]. A detector that answers
with a set yields `logits` [B, Q, C + 1], the last for no object, and `boxes` [B, Q, 4].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.engine.contracts import IGNORED
from stillhouse.errors import StillhouseError
from stillhouse.objectives.boxes import area, generalised_iou, iou, to_centre
from stillhouse.objectives.divergences import at_least_fp32, forward_kl

NEAR = 1.5
"""How far from an object's centre a place may lie that is to find it, in units each way (Tian et al. 2019, FCOS)."""


def assigned(places: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Which object a place is to find, [B, P]; -1: none.

    The smallest of those in whose box and near whose centre it lies (FCOS, arXiv:1904.01355, with the later code's
    sampling of centres). The place nearest to an object's centre is always one of its own, so that none is too small.
    """
    at, unit = places[..., None, :2], places[..., None, 2:]  # [B, P, 1, 2]
    low, high = boxes[:, None, :, :2], boxes[:, None, :, 2:]  # [B, 1, M, 2]
    apart = (at - (low + high) / 2).abs() / unit
    theirs = ((at > low) & (at < high) & (apart < NEAR)).all(-1)
    nearest = apart.square().sum(-1).argmin(1, keepdim=True)
    theirs = theirs.scatter(1, nearest, True) & (labels >= 0).unsqueeze(1)
    sizes = torch.where(theirs, area(boxes).unsqueeze(1), torch.inf)
    smallest, which = sizes.min(-1)
    return torch.where(smallest.isfinite(), which, -1)


def dense_detection(
    student: list[Tensor],
    labels: Tensor,
    *,
    boxes: Tensor,
    overlap_weight: float = 2.0,
    edge_weight: float = 0.25,
) -> Tensor:
    """Generalised focal loss, Li et al. 2020 (arXiv:2006.04388), eq. 8, of a dense detector; one value an image, [B].

    Quality focal loss at all places: the class of the place's object is to be answered with the IoU of the box that
    is answered. At places that have an object, the generalised IoU loss and the distribution focal loss of its edges.
    Each is divided by the image's places with an object, or 1; the paper divides by those of the batch.

    Args:
        student: `logits`, `edges`, `places`, `boxes` (see the module).
    """
    logits, edges, places, answered = map(at_least_fp32, student)
    if logits.shape[-1] <= int(labels.max()):
        raise StillhouseError(
            f"there are {logits.shape[-1]} logits a place and a label {int(labels.max())}: one logit a class is needed"
        )
    which = assigned(places, boxes, labels)
    has = which >= 0
    classes, objects = _of_place(which, labels, boxes)
    with torch.no_grad():
        quality = iou(answered, objects) * has
        target = functional.one_hot(classes, logits.shape[-1]) * quality.unsqueeze(-1)
    focal = (logits.sigmoid() - target).square()
    found = focal * functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    overlap = 1 - generalised_iou(answered, objects)
    located = overlap_weight * overlap + edge_weight * _distribution_focal(edges, _distances(places, objects)).mean(-1)
    return (found.sum(-1) + located * has).sum(1) / has.sum(1).clamp(min=1)


def edge_distillation(
    student: list[Tensor], teacher: list[Tensor], *, labels: Tensor, boxes: Tensor, temperature: float = 10.0
) -> Tensor:
    """Localisation distillation, Zheng et al. 2022 (arXiv:2102.12252), eq. 5, in its main region: T^2 KL of where the
    edges lie, averaged over edges and places that have an object; one value an image, [B]. The valuable region around
    it, by the paper's second rule, is left out.

    Args:
        student, teacher: `edges` [B, P, 4, n] and `places` [B, P, 4].
    """
    has = assigned(at_least_fp32(student[1]), boxes, labels) >= 0
    values = forward_kl(student[0], teacher[0], temperature=temperature).mean(-1)
    return (values * has).sum(1) / has.sum(1).clamp(min=1)


def object_features(
    student: Tensor,
    target: Tensor,
    *,
    labels: Tensor,
    boxes: Tensor,
    background: float = 0.5,
    attention: float = 1.0,
    temperature: float = 0.5,
) -> Tensor:
    """Focal distillation of feature maps [B, C, H, W], Yang et al. 2022 (FGD, arXiv:2111.11837), eqs. 2 to 10.

    Squared differences, weighed by where and in which channels the teacher is strong, and averaged over the cells of
    each object and over those of none apart, so that large objects and background do not outweigh small ones; and the
    1-norm of the difference of the two attentions. One value an image, [B]. The global part (GcBlock) is left out.

    Args:
        background: weight of what is in no box, against 1 in a box (beta / alpha).
        attention: weight of the attentions' difference (gamma / alpha).
    """
    student, target = at_least_fp32(student), at_least_fp32(target)
    inside = _object_cells(boxes, labels, student.shape[-2:])
    outside = (inside == 0) / (inside == 0).sum((1, 2), keepdim=True).clamp(min=1)
    where, which = _attentions(target, temperature)
    own_where, own_which = _attentions(student, temperature)
    apart = (where.unsqueeze(1) * which[..., None, None] * (student - target).square()).sum(1)
    features = (apart * (inside + background * outside)).sum((1, 2))
    return features + attention * ((where - own_where).abs().sum((1, 2)) + (which - own_which).abs().sum(1))


def set_detection(
    student: list[Tensor],
    labels: Tensor,
    *,
    boxes: Tensor,
    corner_weight: float = 5.0,
    overlap_weight: float = 2.0,
    no_object: float = 0.1,
) -> Tensor:
    """The loss of DETR, Carion et al. 2020 (arXiv:2005.12872), section 3.1, of a detector that answers with a set.

    Answers and objects are paired one to one at the least cost (-p(class) + L1 of the boxes + generalised IoU loss).
    Cross-entropy of all answers, those without an object counting `no_object`; L1 (of centre and size) and
    generalised IoU loss of the paired boxes, averaged over the image's objects (the paper: the batch's). [B].

    Args:
        student: `logits` [B, Q, C + 1] and `boxes` [B, Q, 4].
    """
    logits, answered = map(at_least_fp32, student)
    last = logits.shape[-1] - 1
    if last <= int(labels.max()):
        raise StillhouseError(
            f"there are {last + 1} logits an answer and a label {int(labels.max())}: set_detection is for models with "
            "one more logit than classes, for no object (DETR, YOLOS, Table Transformer)"
        )
    classes = torch.full(logits.shape[:2], last, device=logits.device)
    located = []
    for image, (own, place, known) in enumerate(zip(logits, answered, labels >= 0, strict=True)):
        names, objects = labels[image][known], boxes[image][known]
        corners = (to_centre(place).unsqueeze(1) - to_centre(objects)).abs().sum(-1)  # [Q, m]
        overlap = 1 - generalised_iou(place.unsqueeze(1), objects)
        costs = corner_weight * corners + overlap_weight * overlap
        rows, columns = _paired(costs - own.softmax(-1)[:, names])
        classes[image, rows] = names[columns]
        located.append(costs[rows, columns].sum() / max(1, len(names)))
    weights = torch.where(classes == last, no_object, 1.0)
    named = functional.cross_entropy(logits.transpose(1, 2), classes, reduction="none")
    return (weights * named).sum(1) / weights.sum(1) + torch.stack(located)


def _of_place(which: Tensor, labels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The class [B, P] and box [B, P, 4] of each place's object; of a place without one, those of any."""
    at = which.clamp(min=0)
    classes = labels.gather(1, at).clamp(min=0)
    return classes, boxes.gather(1, at.unsqueeze(-1).expand(-1, -1, 4))


def _distances(places: Tensor, boxes: Tensor) -> Tensor:
    """From each place to the edges of a box, in units, [B, P, 4]."""
    at, unit = places[..., :2], places[..., 2:]
    return torch.cat([at - boxes[..., :2], boxes[..., 2:] - at], -1) / unit.repeat(1, 1, 2)


def _distribution_focal(edges: Tensor, distances: Tensor) -> Tensor:
    """Cross-entropy with the two whole distances next to the true one, by how near they are; Li et al. 2020, eq. 6."""
    at = distances.clamp(0, edges.shape[-1] - 1)
    below = at.floor().clamp(max=edges.shape[-1] - 2).long()
    share = at - below
    log_p = edges.log_softmax(-1)
    lower, upper = (log_p.gather(-1, side.unsqueeze(-1)).squeeze(-1) for side in (below, below + 1))
    return -(1 - share) * lower - share * upper


def _object_cells(boxes: Tensor, labels: Tensor, size: torch.Size) -> Tensor:
    """One over the cells of the smallest box that touches a cell, [B, H, W]; zero in none."""
    high, wide = (torch.arange(n, device=boxes.device) for n in size)
    low_x, low_y, high_x, high_y = boxes.unbind(-1)
    across = (low_x[..., None] * size[1] < wide + 1) & (high_x[..., None] * size[1] > wide)  # [B, M, W]
    down = (low_y[..., None] * size[0] < high + 1) & (high_y[..., None] * size[0] > high)
    cells = (down.unsqueeze(-1) & across.unsqueeze(-2) & (labels != IGNORED)[..., None, None]).float()
    return (cells / cells.sum((2, 3), keepdim=True).clamp(min=1)).amax(1)


def _attentions(x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Of a feature map: over places, [B, H, W], that sum to H W, and over channels, [B, C], that sum to C."""
    size = x.abs()
    where = (size.mean(1).flatten(1) / temperature).softmax(1) * x.shape[2] * x.shape[3]
    return where.view(len(x), *x.shape[2:]), (size.mean((2, 3)) / temperature).softmax(1) * x.shape[1]


def _paired(costs: Tensor) -> tuple[Tensor, Tensor]:
    """The one-to-one pairs of rows and columns [Q, m] that cost least in sum (Kuhn 1955)."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(costs.detach().cpu().numpy())
    return torch.as_tensor(rows, device=costs.device), torch.as_tensor(columns, device=costs.device)
