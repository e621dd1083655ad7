"""The measurements of models that write or draw, which a recipe may ask for. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stillhouse.evaluation.kinds import Measure, MetricKind


class Perplexity(MetricKind):
    """exp of the mean negative log-likelihood of a token, and the same mean by text (`text_nll`, nats)."""

    kind: Literal["perplexity"] = "perplexity"
    task = "language"
    builds = "stillhouse.evaluation.language:perplexity"
    gives: ClassVar[dict[str, Measure]] = {
        "perplexity": Measure("perplexity", "lower"),
        "text_nll": Measure("negative log-likelihood a token, by text", "lower", "nats"),
    }


class TeacherJudged(MetricKind):
    """The arm's own samples, scored by the teacher and by itself; the gap between the two is the reverse KL."""

    kind: Literal["teacher-judged"] = "teacher-judged"
    rehearsed = False
    task = "language"
    needs_teacher = True
    builds = "stillhouse.evaluation.language:teacher_judged"
    gives: ClassVar[dict[str, Measure]] = {
        "teacher_log_likelihood": Measure("own samples' log-likelihood to the teacher", "higher", "nats"),
        "own_log_likelihood": Measure("own samples' log-likelihood to itself", "", "nats"),
        "gap": Measure("gap between own and teacher's log-likelihood", "lower", "nats"),
    }
    prompt: Annotated[int, Field(gt=0)] = 16
    """Tokens of each block that are given."""
    rollout: Annotated[int, Field(gt=0)] = 32
    """Tokens sampled after them, fewer where the text ends before."""
    samples: Annotated[int, Field(gt=0)] = 1
    """Samples of each prompt."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the sampling; the scores are at temperature 1."""
    shown: Annotated[int, Field(ge=0)] = 4
    """Samples in the report."""


class Frechet(MetricKind):
    """The Fréchet distance of generated from real images (Heusel et al. 2017, arXiv:1706.08500), with an interval.

    The features are those of a small classifier trained on the real training images, the same in every run.
    """

    kind: Literal["frechet"] = "frechet"
    rehearsed = False
    task = "generation"
    builds = "stillhouse.evaluation.generation:frechet"
    gives: ClassVar[dict[str, Measure]] = {
        "frechet": Measure("Fréchet distance", "lower"),
        "frechet_low": Measure("Fréchet distance, 95 % low"),
        "frechet_high": Measure("Fréchet distance, 95 % high"),
        "asked_class": Measure("samples of the class asked for", "higher", "share"),
    }
    samples: Annotated[int, Field(ge=100)] = 4096
    """Images generated, of the classes in the measured split's proportions."""


class Reference(MetricKind):
    """Pairs of images drawn beside the first image of each real pair, whose domain the second one is to share.

    A classifier of classes and domains judges, trained on one half of the real training pairs, the same in every
    run; the judge of `own-pairs` has the other.
    """

    kind: Literal["reference"] = "reference"
    rehearsed = False
    task = "generation"
    builds = "stillhouse.evaluation.pairs:reference"
    gives: ClassVar[dict[str, Measure]] = {
        "identity": Measure("images of the reference's domain", "higher", "share"),
        "context": Measure("images of the class asked for", "higher", "share"),
        "consistency": Measure("pairs of one domain, drawn without a reference", "higher", "share"),
    }


class SamplingCost(MetricKind):
    """Network calls and milliseconds that one generated image takes."""

    kind: Literal["sampling-cost"] = "sampling-cost"
    rehearsed = False
    task = "generation"
    builds = "stillhouse.evaluation.generation:sampling_cost"
    gives: ClassVar[dict[str, Measure]] = {
        "network_calls": Measure("network calls an image", "lower", "count", cost=True),
        "ms_per_image": Measure("time an image", "lower", "ms", cost=True),
    }
    batch_size: Annotated[int, Field(gt=0)] = 256
    """Images generated at a time."""
