"""Measurements of an architecture, whatever its weights. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stillhouse.evaluation.kinds import Measure, MetricKind


class DisWOT(MetricKind):
    """How well a student's architecture fits the teacher's before either is trained (Dong et al. 2023, DisWOT).

    arXiv:2303.15678. Its use is to choose a student without training any: `stillhouse search` with
    `metric: diswot_score` and `overrides: {train.steps: 1}`.
    """

    kind: Literal["diswot"] = "diswot"
    task = "classification"
    needs_teacher = True
    builds = "stillhouse.evaluation.architecture:diswot"
    gives: ClassVar[dict[str, Measure]] = {
        "diswot_score": Measure("fit of the untrained architecture to the teacher's", "higher")
    }
    features: str = "features.pool"
    """What the arm's last linear layer reads, [B, D]."""
    teacher_features: str = "features.pool"
    """The same of the teacher."""
    examples: Annotated[int, Field(ge=2)] = 128
    """The first so many of the split."""
    draws: Annotated[int, Field(gt=0)] = 4
    """Random weights of both that the score is averaged over."""
