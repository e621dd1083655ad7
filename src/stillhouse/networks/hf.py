"""Causal language models of Hugging Face Transformers."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.utils import logging

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.networks.kinds import CausalLM, Llama
from stillhouse.sources.hub import HUB, located

POSITIONS = 2048
"""Positions that a small Llama is configured for, where the data's blocks are not longer."""

logging.disable_progress_bar()  # the run has one of its own


def llama(kind: Llama, facts: Facts) -> LlamaForCausalLM:
    """A `LlamaForCausalLM` with random weights over the data's vocabulary.

    Raises StillhouseError where the data is no text.
    """
    _needs_text(facts, kind.word)
    end = getattr(facts.tokenizer, "eos_token_id", None)
    config = LlamaConfig(
        vocab_size=facts.classes,
        hidden_size=kind.width,
        intermediate_size=-(-8 * kind.width // 48) * 16,
        num_hidden_layers=kind.layers,
        num_attention_heads=kind.heads,
        num_key_value_heads=kind.heads,
        max_position_embeddings=max(POSITIONS, *facts.shape),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


def causal_lm(kind: CausalLM, facts: Facts) -> PreTrainedModel:
    """The model in `kind.path` with its own weights, in fp32, read from safetensors.

    Raises StillhouseError where the data is no text, the model is missing, cannot be reached, has no
    safetensors weights, wants to run code of its own, or reads another vocabulary than the data.
    """
    _needs_text(facts, kind.word)
    where, options = source_of(kind)
    try:
        network = AutoModelForCausalLM.from_pretrained(where, use_safetensors=True, dtype="float32", **options)
    except (OSError, ValueError, ImportError) as error:
        raise StillhouseError(f"network.path: cannot load {kind.path!r}: {advised(error)}") from error
    reads_the_same(kind.path, where, facts, options)
    if kind.width == "data" and network.get_input_embeddings().num_embeddings != facts.classes:
        network.resize_token_embeddings(facts.classes, mean_resizing=False)
    return network


def source_of(kind: Any) -> tuple[str, dict[str, Any]]:
    """Where `from_pretrained` finds the model that a kind names by `path`, and the options it says beside it.

    Raises StillhouseError for a folder that is not there.
    """
    where = located(kind.path, "network.path", "a model")
    options = {"revision": kind.revision} if kind.revision and kind.path.startswith(HUB) else {}
    return where, options | {"trust_remote_code": kind.trust_remote_code}


def _needs_text(facts: Facts, word: str) -> None:
    if facts.task != "language":
        raise StillhouseError(f"network {word!r} reads text, and the data is for {facts.task}: take another of the two")


def advised(error: Exception) -> str:
    """The first line of what Transformers says, with what to do about it."""
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "trust_remote_code" in str(error):
        return (
            "the model brings Python code of its own, which is not run unless you ask for it. "
            f"If you trust its authors, set `trust_remote_code: true` beside its path. ({said})"
        )
    if "safetensors" in str(error):
        return f"only safetensors weights are read, and it has none: convert them first. ({said})"
    return (
        f"{said} Check the name and the connection (offline, only what is in the hub's cache is found), "
        "or give a folder that holds config.json and model.safetensors"
    )


def reads_the_same(path: str, where: str, facts: Facts, options: dict[str, Any]) -> None:
    """Refuse token ids that mean other tokens to this model than to the data's tokenizer."""
    if facts.tokenizer is None:
        return
    try:
        own = AutoTokenizer.from_pretrained(where, **options).get_vocab()
    except (OSError, ValueError):  # a folder of weights alone: nothing to compare with
        return
    read = facts.tokenizer.get_vocab()
    other = [token for token, number in read.items() if own.get(token) != number]
    if other:
        raise StillhouseError(
            f"network {path!r} reads another vocabulary than the data: {len(other)} of {len(read)} tokens, "
            f"such as {other[0]!r}, have another number or none in its tokenizer. "
            f"Set `data.tokenizer: {path}`, and train or load every model of the recipe with that tokenizer"
        )
