"""Who learned what: what the teacher changed for each group of examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillhouse.errors import StillhouseError
from stillhouse.evaluation.answers import Answers, answers, batches
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.kinds import GroupEffects
from stillhouse.evaluation.statistics import paired_shares_interval

MOST_GROUPS = 40
"""With more groups than this, those that gained and those that lost most are shown alone."""
EXTREMES = 12
"""How many of each."""

KNOWS = "what it knows"

Members = dict[str, Tensor]
"""By a group's name, which examples are in it: [N] bool."""


def group_effects(kind: GroupEffects, arm: Arm, context: Context) -> Findings:
    """`worst_class`: the accuracy in the class that has the lowest; and arm minus control, by group, as figures.

    The groups: the classes; whether the teacher is right, and the thirds of the examples by how sure it is, where
    there is a teacher; the values of every field that `kind.fields` names. The figures are of trained arms other
    than the control, where there is one. Each difference has a 95 % paired interval over the group's examples.

    Raises StillhouseError where the batch has no such field, or it does not hold one whole number an example.
    """
    own = answers(arm, context)
    classes = _classes(own.labels, context)
    found = Findings(metrics={"worst_class": min(_mean(own.right, members) for members in classes.values())})
    if arm.name in ("teacher", "control") or "control" not in context.arms:
        return found
    control = answers(context.arms["control"], context)
    asked = {"class": classes}
    if "teacher" in context.arms:
        asked[KNOWS] = what_the_teacher_knows(answers(context.arms["teacher"], context))
    asked |= {field: _by_field(field, context) for field in kind.fields}
    found.figures = [_effects(by, members, own, control) for by, members in asked.items()]
    return found


def what_the_teacher_knows(teacher: Answers) -> Members:
    """Where the teacher is right and wrong, and thirds of the examples by its largest probability."""
    rank = teacher.logits.double().softmax(-1).amax(-1).argsort(stable=True).argsort()  # 0: the least sure
    third = 3 * rank // len(rank)
    found = {"teacher right": teacher.right, "teacher wrong": ~teacher.right}
    for place, name in enumerate(("least sure third", "middle third", "surest third")):
        found[name] = third == place
    return found


def _classes(labels: Tensor, context: Context) -> Members:
    names = context.data.facts.names
    return {names[c] if c < len(names) else str(c): labels == c for c in labels.unique().tolist()}


def _by_field(field: str, context: Context) -> Members:
    """The groups of a field of the batch, one for each of its values."""
    columns = []
    for batch in batches(context.source, context.batch_size, "cpu"):
        values = batch.get(field)
        if values is None or values.dim() != 1 or values.is_floating_point():
            there = ", ".join(name for name, v in batch.items() if v.dim() == 1 and not v.is_floating_point())
            raise StillhouseError(
                f"group-effects: the field {field!r} is no whole number for each example; those that are: {there}"
            )
        columns.append(values)
    values = torch.cat(columns)
    return {f"{field} {value}": values == value for value in values.unique().tolist()}


def _effects(by: str, members: Members, own: Answers, control: Answers) -> dict[str, Any]:
    """Arm minus control by group: a figure; classes and fields in the order of what they gained."""
    rows = []
    for name, inside in members.items():
        if inside.any():
            interval = paired_shares_interval(own.right[inside].tolist(), control.right[inside].tolist())
            rows.append((name, *interval, int(inside.sum())))
    if by != KNOWS:
        rows.sort(key=lambda row: -row[1])
    shown = rows if len(rows) <= MOST_GROUPS else rows[:EXTREMES] + rows[-EXTREMES:]
    columns = dict(
        zip(("labels", "difference", "low", "high", "count"), map(list, zip(*shown, strict=True)), strict=True)
    )
    return {
        "kind": "intervals",
        "title": f"What the teacher changed, by {by}",
        "against": "control",
        "unit": "share",
        "better": "higher",
        "groups": len(rows),
        **columns,
    }


def _mean(values: Tensor, inside: Tensor) -> float:
    return values[inside].double().mean().item()
