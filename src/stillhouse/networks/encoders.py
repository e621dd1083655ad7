"""Text encoders of Hugging Face Transformers, and one of static embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.networks.encoder_kinds import Bert, HFEncoder
from stillhouse.networks.encoder_kinds import StaticEmbedding as StaticEmbeddingKind
from stillhouse.networks.hf import advised, reads_the_same, source_of
from stillhouse.views.encoder import mean_of_tokens

SMALL = {
    "masked-lm": BertForMaskedLM,
    "classifier": BertForSequenceClassification,
    "tokens": BertForTokenClassification,
    "none": BertModel,
}
LOADED = {
    "masked-lm": AutoModelForMaskedLM,
    "classifier": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
    "none": AutoModel,
}
POSITIONS = 512
"""Positions that a small encoder has, where the data's texts are not longer."""


def bert(kind: Bert, facts: Facts) -> PreTrainedModel | MeanPooled:
    """A BERT with random weights over the data's vocabulary, with one class an output where its head is one.

    Raises StillhouseError where the data is no text.
    """
    config = BertConfig(
        vocab_size=vocabulary(facts, kind.word),
        hidden_size=kind.width,
        intermediate_size=4 * kind.width,
        num_hidden_layers=kind.layers,
        num_attention_heads=kind.heads,
        hidden_dropout_prob=kind.dropout,
        attention_probs_dropout_prob=kind.dropout,
        max_position_embeddings=max(POSITIONS, *facts.shape),
        type_vocab_size=1,
        pad_token_id=None,
    )
    config.num_labels = facts.classes
    return MeanPooled(config, facts.classes) if kind.pool == "mean" else SMALL[kind.head](config)


class MeanPooled(nn.Module):
    """A BERT that tells a text's class from the mean of its last layer's states.

    No `PreTrainedModel`, as Hugging Face has none of this head and would load its files as another's. The encoder's
    parameters have the names that they have in `BertForSequenceClassification`.
    """

    def __init__(self, config: BertConfig, classes: int) -> None:
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Token ids [B, T] to logits [B, C]; `attention_mask` [B, T] is zero at padding."""
        states = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        return self.classifier(self.dropout(mean_of_tokens(states, attention_mask)))


def hf_encoder(kind: HFEncoder, facts: Facts) -> PreTrainedModel:
    """The model in `kind.path` with its own weights, in fp32, read from safetensors.

    Raises StillhouseError where the data is no text, the model is missing, cannot be reached, has no
    safetensors weights, wants to run code of its own, or reads another vocabulary than the data.
    """
    vocabulary(facts, kind.word)
    where, options = source_of(kind)
    try:
        config = AutoConfig.from_pretrained(where, **options)
        if kind.head in ("classifier", "tokens"):
            config.num_labels = facts.classes
        if kind.layers is not None:
            config.num_hidden_layers = _fewer(kind.layers, config.num_hidden_layers)
        with quiet():
            network = LOADED[kind.head].from_pretrained(
                where, config=config, use_safetensors=True, dtype="float32", **options
            )
    except (OSError, ValueError, ImportError) as error:
        raise StillhouseError(f"network.path: cannot load {kind.path!r}: {advised(error)}") from error
    reads_the_same(kind.path, where, facts, options)
    return network


@contextmanager
def quiet() -> Iterator[None]:
    """Without the list of a head's parameters that start anew and layers that are left out: both were asked for."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _fewer(asked: int, there: int) -> int:
    if asked > there:
        raise StillhouseError(f"network.layers: the model has {there} layers, not {asked}")
    return asked


class StaticEmbedding(nn.Module):
    """The vectors of the tokens, as the last layer's states."""

    def __init__(self, kind: StaticEmbeddingKind, facts: Facts) -> None:
        super().__init__()
        words = nn.Embedding(vocabulary(facts, kind.word), kind.width)
        self.embeddings = nn.ModuleDict({"word_embeddings": words})  # as in BERT, whose vectors fit in

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        """Token ids [B, T] to states [B, T, D]; the mask changes nothing, as no token looks at another."""
        del attention_mask
        return BaseModelOutput(last_hidden_state=self.embeddings["word_embeddings"](input_ids))  # type: ignore[arg-type]


def vocabulary(facts: Facts, word: str) -> int:
    """The number of tokens that the data is written in. Raises StillhouseError where it is no text."""
    if facts.tokenizer is not None:
        return len(facts.tokenizer)
    if "language" in facts.task:
        return facts.classes
    raise StillhouseError(f"network {word!r} reads text, and the data is for {facts.task}: take another of the two")
