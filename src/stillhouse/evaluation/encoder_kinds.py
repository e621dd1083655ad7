"""The measurements of text encoders. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stillhouse.evaluation.kinds import Measure, MetricKind


class MaskedTokens(MetricKind):
    """How well masked tokens are guessed: the share that is right, and the perplexity."""

    kind: Literal["masked-tokens"] = "masked-tokens"
    task = "masked-language"
    builds = "stillhouse.evaluation.encoders:masked_tokens"
    gives: ClassVar[dict[str, Measure]] = {
        "masked_accuracy": Measure("masked tokens guessed", "higher", "share"),
        "masked_perplexity": Measure("perplexity of masked tokens", "lower"),
        "masked_nll": Measure("negative log-likelihood of masked tokens", "lower"),
    }


class Tags(MetricKind):
    """How well words are tagged: the share that is right, F1 averaged over tags, F1 of spans where tags are B-, I-."""

    kind: Literal["tags"] = "tags"
    task = "tagging"
    builds = "stillhouse.evaluation.tagging:tags"
    gives: ClassVar[dict[str, Measure]] = {
        "tag_accuracy": Measure("tags that are right", "higher", "share"),
        "tag_f1": Measure("F1 averaged over tags", "higher"),
        "span_f1": Measure("F1 of spans", "higher"),
        "tag_agreement": Measure("tags on which the teacher agrees", "higher", "share"),
    }


class Similarity(MetricKind):
    """Spearman correlation, over pairs of held-out texts, of the cosines of an arm's embeddings with the teacher's."""

    kind: Literal["similarity"] = "similarity"
    needs_teacher = True
    builds = "stillhouse.evaluation.encoders:similarity"
    gives: ClassVar[dict[str, Measure]] = {
        "similarity_spearman": Measure("rank correlation of similarities with the teacher's", "higher"),
    }
    pairs: Annotated[int, Field(ge=10)] = 20000
    """Pairs of different texts, drawn once."""
