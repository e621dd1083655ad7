"""How well words are tagged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.errors import NothingToMeasure
from stillhouse.evaluation.encoder_kinds import Tags
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.places import place_answers, share

Span = tuple[int, int, str]
"""First word, the word after the last, and what is named."""


def tags(kind: Tags, arm: Arm, context: Context) -> Findings:
    """Over the split's tagged words: `tag_accuracy`, averaged by text; `tag_f1`, the mean over tags that occur of the
    harmonic mean of precision and recall; `span_f1`, of whole spans, where every tag is `O`, `B-...` or `I-...`
    (Tjong Kim Sang & De Meulder 2003, CoNLL-2003); beside a teacher, `tag_agreement`, averaged by text.

    Raises StillhouseError where no word has a tag.
    """
    del kind
    guesses, labels = place_answers(arm, context)
    counts = labels >= 0
    if not counts.any():
        raise NothingToMeasure(f"there is nothing to measure {arm.name} on: no word of the split has a tag")
    names = context.data.facts.names
    pairs = torch.bincount(labels[counts] * len(names) + guesses[counts], minlength=len(names) ** 2)
    pairs = pairs.view(len(names), len(names)).double()
    either = pairs.sum(0) + pairs.sum(1)
    found = Findings(metrics={"tag_f1": (2 * pairs.diagonal() / either)[either > 0].mean().item()})
    if all(name == "O" or name[:2] in ("B-", "I-") for name in names):
        found.metrics["span_f1"] = _span_f1(guesses, labels, names)
    share(found, "tag_accuracy", guesses == labels, counts)
    if "teacher" in context.arms and arm.name != "teacher":
        share(found, "tag_agreement", guesses == place_answers(context.arms["teacher"], context)[0], counts)
    return found


def spans(tags: Sequence[str]) -> set[Span]:
    """What a sequence of tags names. A span begins at B-, or at an I- that goes on with no span of its kind."""
    found, start, what = set(), 0, ""
    for place, tag in enumerate([*tags, "O"]):
        if what and tag != f"I-{what}":
            found.add((start, place, what))
            what = ""
        if tag != "O" and not what:
            start, what = place, tag[2:]
    return found


def _span_f1(guesses: Tensor, labels: Tensor, names: Sequence[str]) -> float:
    """Of spans in all texts together: twice those in both over those in either; 1 where there are none at all."""
    both, either = 0, 0
    for row, counts in enumerate(labels >= 0):
        ours, theirs = (spans([names[int(n)] for n in side[row][counts]]) for side in (guesses, labels))
        both += len(ours & theirs)
        either += len(ours) + len(theirs)
    return 2 * both / either if either else 1.0
