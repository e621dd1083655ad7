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


class Ranking(MetricKind):
    """Each held-out text as a query for all others, ranked by the cosine of an arm's embeddings: against the teacher's
    ranking and, where texts have a class, against it."""

    kind: Literal["ranking"] = "ranking"
    builds = "stillhouse.evaluation.encoders:ranking"
    gives: ClassVar[dict[str, Measure]] = {
        "ndcg": Measure("gain of the ranking, the teacher's similarities being relevance", "higher"),
        "neighbours_kept": Measure("of the teacher's nearest texts, those among one's own", "higher", "share"),
        "neighbours_of_class": Measure("nearest texts of the same class", "higher", "share"),
    }
    nearest: Annotated[int, Field(gt=0)] = 10
    """Texts at the head of a ranking that count."""
