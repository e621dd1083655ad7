"""Contrastive terms: an example's student embedding is to tell its own teacher embedding from others'.

Each is a module built from one batch of signals: embeddings of both sides are trained with the student and gone at
export, and what a term remembers between batches is in its buffers, so a killed run goes on bit for bit.
The signals' own gradients reach the student alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.errors import StillhouseError
from stillhouse.objectives.divergences import at_least_fp32
from stillhouse.objectives.relations import unit_length


class Embedding(nn.Module):
    """A linear map to vectors of unit length, [..., D] to [..., width], in at least fp32; `signal` [B, ...] gives D."""

    def __init__(self, signal: Tensor, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(signal.flatten(1).shape[1], width)

    def forward(self, features: Tensor) -> Tensor:
        return unit_length(at_least_fp32(self.linear(features)))


class CRD(nn.Module):
    """Contrastive representation distillation, Tian et al. 2020 (arXiv:1910.10699), eqs. 17 to 19.

    Two banks hold an embedding of every training example, the student's and the teacher's. Example i's student
    embedding s is compared with the teacher's bank, its teacher embedding t with the student's bank: on row i, the
    positive, and on K rows drawn from the other classes. With u = exp(s.row / T) / Z and c = K / M, M rows in all,
    a side's value is -log(u_i / (u_i + c)) - sum over the K negatives of log(c / (u_k + c)); the term is the sum of
    both sides. Afterwards row i becomes normalise(m * row + (1 - m) * embedding).

    Z: the paper's h has none (`partition=False`). The authors' code, and all results, divide by the mean of
    exp(s.row / T) over the first batch's rows times M, kept for good; so does this, on each side.
    Size: an option, not the largest index seen. A bank that grows would have another shape in each checkpoint and
    no M before the first epoch's end, and M enters the loss.
    Deviations: negatives are drawn with replacement also where there are more candidates than K. A row not yet
    seen has no known class and counts as another one: what it holds before is noise, as in the authors' code.
    The code adds 1e-7 to the denominators u + c, which adds about 1e-7 M to a side's value (5e-4 of it for 45,000
    examples) and changes its gradient by less than 1e-6 of it; here it is not needed.
    Limits: under several processes each updates its bank with the examples it saw itself.

    Args of forward: features [B, ...] of both sides, `index` [B] in 0 to examples - 1, `labels` [B] classes.
    Returns [B]; the mean is the authors' loss.
    Raises StillhouseError: an index beyond the bank, no class labels where they are needed, or no negatives.
    """

    student_bank: Tensor
    teacher_bank: Tensor
    classes: Tensor
    partitions: Tensor
    draws: Tensor

    def __init__(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        examples: int,
        negatives: int = 16384,
        other_classes: bool = True,
        width: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        partition: bool = True,
    ) -> None:
        super().__init__()
        self.negatives, self.other_classes, self.partition = negatives, other_classes, partition
        self.temperature, self.momentum = temperature, momentum
        self.embed_student, self.embed_teacher = Embedding(student, width), Embedding(teacher, width)
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, (torch.rand(examples, width) * 2 - 1) * math.sqrt(3 / width))
        self.register_buffer("classes", torch.full((examples,), -1))
        self.register_buffer("partitions", torch.zeros(2))
        self.register_buffer("draws", torch.randint(2**31, ()))

    def forward(self, student: Tensor, teacher: Tensor, *, index: Tensor, labels: Tensor | None = None) -> Tensor:
        self._check(index, labels)
        if labels is not None and self.other_classes:
            self.classes[index] = labels
        rows = torch.cat([index.unsqueeze(1), self._drawn(index)], 1)
        with torch.autocast(student.device.type, enabled=False):
            ours = self.embed_student(at_least_fp32(student).flatten(1))
            theirs = self.embed_teacher(at_least_fp32(teacher.detach()).flatten(1))
            values = self._side(ours, self.teacher_bank, rows, 0) + self._side(theirs, self.student_bank, rows, 1)
        self._remember(self.student_bank, ours, index)
        self._remember(self.teacher_bank, theirs, index)
        return values

    def _side(self, anchors: Tensor, bank: Tensor, rows: Tensor, side: int) -> Tensor:
        """-log h of the positive, -log(1 - h) of the negatives, summed [B]; h = u / (u + K / M)."""
        scores = (anchors @ bank.clone().T).gather(1, rows) / self.temperature
        log_u = scores - self._log_partition(scores, side)
        margin = log_u - math.log(self.negatives / len(bank))
        return -nn.functional.logsigmoid(margin[:, 0]) - nn.functional.logsigmoid(-margin[:, 1:]).sum(1)

    @torch.no_grad()
    def _log_partition(self, scores: Tensor, side: int) -> Tensor | float:
        if not self.partition:
            return 0.0
        if self.partitions[side] == 0:
            self.partitions[side] = scores.exp().mean() * len(self.classes)
        return self.partitions[side].log()

    def _drawn(self, index: Tensor) -> Tensor:
        """K rows for each example, uniform over those of other classes (or over all others)."""
        rng = torch.Generator(index.device).manual_seed(int(self.draws))
        self.draws += 1
        order, start, length = self._barred(index)
        allowed = len(self.classes) - length
        if int(allowed.min()) <= 0:
            raise StillhouseError(
                "crd: every example in the bank is of one class, so there are no negatives; set other_classes: false"
            )
        share = torch.rand(len(index), self.negatives, generator=rng, device=index.device, dtype=torch.float64)
        place = (share * allowed.unsqueeze(1)).long()
        return order[place + length.unsqueeze(1) * (place >= start.unsqueeze(1))]

    def _barred(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """An order of the rows, and the run in it that each example may not draw from: start and length."""
        if not self.other_classes:
            order = torch.arange(len(self.classes), device=index.device)
            return order, index, torch.ones_like(index)
        ordered, order = self.classes.sort(stable=True)
        own = self.classes[index]
        start = torch.searchsorted(ordered, own)
        return order, start, torch.searchsorted(ordered, own, right=True) - start

    @torch.no_grad()
    def _remember(self, bank: Tensor, embeddings: Tensor, index: Tensor) -> None:
        bank[index] = unit_length(self.momentum * bank[index] + (1 - self.momentum) * embeddings.to(bank.dtype))

    def _check(self, index: Tensor, labels: Tensor | None) -> None:
        largest, size = int(index.max()), len(self.classes)
        if largest >= size:
            raise StillhouseError(
                f"crd: example {largest} has no row in a bank of {size}: "
                "set `examples` to the number of training examples"
            )
        if self.other_classes:
            needs_classes("crd", labels, index)


class BatchContrast(nn.Module):
    """InfoNCE between the embeddings of a batch, van den Oord et al. 2018 (arXiv:1807.03748), eq. 4.

    With s_i, t_i of unit length, a side's value is -log(exp(s_i.t_i / T) / sum_j exp(s_i.t_j / T)), j running over i
    and its negatives; the term is the sum of the student's side and the teacher's. Tian et al. 2020
    (arXiv:1910.10699) compare this objective with theirs: the negatives are the batch's, no bank is kept.

    Args of forward: features [B, ...] of both sides, `labels` [B] classes where the same class is left out.
    Returns [B], at least zero; zero for an example without negatives.
    Raises StillhouseError where class labels are needed and missing.
    """

    def __init__(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        other_classes: bool = True,
        width: int = 128,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.other_classes, self.temperature = other_classes, temperature
        self.embed_student, self.embed_teacher = Embedding(student, width), Embedding(teacher, width)

    def forward(self, student: Tensor, teacher: Tensor, *, labels: Tensor | None = None) -> Tensor:
        return self.at_places(student.flatten(1).unsqueeze(1), teacher.flatten(1).unsqueeze(1), labels).squeeze(1)

    def at_places(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """The same for each of several places by itself: features [B, P, D] of both sides; returns [B, P].

        `labels` are [B], or [B, P] where an example's places are of classes of their own.
        """
        with torch.autocast(student.device.type, enabled=False):
            ours = self.embed_student(at_least_fp32(student))
            theirs = self.embed_teacher(at_least_fp32(teacher.detach()))
            scores = torch.einsum("ipd,jpd->pij", ours, theirs) / self.temperature
        if self.other_classes:
            by_place = labels is not None and labels.dim() == 2
            classes = needs_classes("batch_contrast", labels, student[:, :, 0] if by_place else student[:, 0, 0]).t()
            same = classes.unsqueeze(-1) == classes.unsqueeze(-2)  # [B, B], or [P, B, B]
            own = torch.eye(len(student), dtype=torch.bool, device=scores.device)
            scores = scores.masked_fill(same & ~own, -math.inf)
        positive = scores.diagonal(dim1=1, dim2=2)
        return (scores.logsumexp(2) + scores.logsumexp(1) - 2 * positive).T


class RegionContrast(nn.Module):
    """Contrast of local regions at several scales, after Wang et al. 2025 (MSDCRD, arXiv:2502.05835).

    Windows of each size slide over both feature maps, one pixel at a time, and are averaged: a window's vector at the
    student is to tell the teacher's vector of the same example and window from those of the batch's other examples at
    that window, by the objective of `BatchContrast`. The value is the mean over windows and then over sizes; a size
    of 0 is the whole map, the global feature that the paper decouples. Each size has embeddings of its own.

    With `classes` the windows are sorted by what is recognised in each: a window is of the class that a linear
    classifier gives the teacher's vector there, and is not held apart from windows of its own class. The classifier
    is trained along, by its cross-entropy on the teacher's whole maps, which is added to the value.

    Deviations: the paper sorts windows by the teacher's own classifier, whose weights are no signal; its rule for which
    ones are held apart is read from a summary, and was not checked against its text. Its contrast between features in
    place of samples is left out. Maps of unequal resolution are brought to the smaller by adaptive averages.

    Args of forward: maps [B, C, H, W] of both sides, `labels` [B] where the same class is left out or recognised.
    Returns [B]. Raises StillhouseError for signals that are no maps, a window larger than they are, or missing classes.
    """

    def __init__(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        windows: Sequence[int] = (0, 2),
        classes: int | None = None,
        other_classes: bool = True,
        width: int = 128,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.windows = list(windows)
        ours, theirs = same_resolution("region_contrast", student, teacher)
        largest = min(ours.shape[-2:])
        if max(windows) > largest:
            raise StillhouseError(f"region_contrast: a window of {max(windows)} does not fit maps of {largest} pixels")
        self.contrasts = nn.ModuleList(
            BatchContrast(
                ours[:, :, 0, 0],
                theirs[:, :, 0, 0],
                other_classes=other_classes,
                width=width,
                temperature=temperature,
            )
            for _ in windows
        )
        self.classifier = nn.Linear(theirs.shape[1], classes) if classes else None

    def forward(self, student: Tensor, teacher: Tensor, *, labels: Tensor | None = None) -> Tensor:
        maps = same_resolution("region_contrast", student, teacher)
        sizes = []
        for window, contrast in zip(self.windows, self.contrasts, strict=True):
            assert isinstance(contrast, BatchContrast)
            ours, theirs = (_windows(side, window).transpose(1, 2) for side in maps)  # [B, windows, C]
            seen = labels if self.classifier is None else self._recognised(theirs).argmax(-1)  # [B] or [B, windows]
            sizes.append(contrast.at_places(ours, theirs, seen).mean(1))
        values = torch.stack(sizes).mean(0)
        if self.classifier is None:
            return values
        whole = maps[1].mean((2, 3))
        classes = needs_classes("region_contrast", labels, whole[:, 0])
        return values + functional.cross_entropy(self._recognised(whole), classes, reduction="none")

    def _recognised(self, vectors: Tensor) -> Tensor:
        assert self.classifier is not None
        with torch.autocast(vectors.device.type, enabled=False):
            return self.classifier(vectors.detach())


def same_resolution(term: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps [B, C, H, W] at the smaller of their resolutions. Raises StillhouseError for other signals."""
    if student.dim() != 4 or teacher.dim() != 4:
        raise StillhouseError(
            f"{term} is for feature maps [B, C, H, W]; the student's signal has shape {tuple(student.shape)}, "
            f"the teacher's {tuple(teacher.shape)}"
        )
    height, width = (min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True))
    ours, theirs = (functional.adaptive_avg_pool2d(at_least_fp32(side), (height, width)) for side in (student, teacher))
    return ours, theirs


def _windows(maps: Tensor, size: int) -> Tensor:
    """The mean of every window of that size, 0 being the whole map: [B, C, windows]."""
    pooled = functional.avg_pool2d(maps, size, stride=1) if size else functional.adaptive_avg_pool2d(maps, 1)
    return pooled.flatten(2)


def needs_classes(term: str, labels: Tensor | None, batch: Tensor) -> Tensor:
    """The labels, if they are one class an example. Raises StillhouseError otherwise."""
    if labels is None or labels.shape != batch.shape or labels.is_floating_point():
        found = "has none" if labels is None else f"has labels of shape {tuple(labels.shape)}"
        raise StillhouseError(
            f"{term} takes its negatives from other classes, which needs one class an example, and the batch {found}: "
            "set other_classes: false"
        )
    return labels
