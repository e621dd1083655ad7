"""Running text as blocks of tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from stillhouse.engine.contracts import Batch, Data, Facts
from stillhouse.engine.paths import resolve_file
from stillhouse.errors import StillhouseError
from stillhouse.sources.hub import located
from stillhouse.sources.kinds import PythonTopics, Text, TextKind

END = "<|endoftext|>"
MASK = "<|mask|>"
PERIODS = 10
"""Each tenth of a text gives its share to every split."""
SPLITS = ("train", "validation", "test")


class TextBlocks:
    """A `Source` of blocks of tokens: `input_ids` and `labels` [B, T], nothing padded.

    Args: blocks [N, T] token ids.
    """

    def __init__(self, blocks: Tensor) -> None:
        self.blocks = blocks
        self.fingerprint = hashlib.sha256(str(tuple(blocks.shape)).encode() + blocks.numpy().tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.blocks)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        del rng
        blocks = self.blocks.index_select(0, indices)
        return {"index": indices, "input_ids": blocks, "labels": blocks.clone()}


def python_topics(kind: PythonTopics) -> Data:
    """Sections of the Python language reference, in the order of their names.

    The sections quote each other at length; a paragraph that was seen before is left out, so that no
    split holds text of another. Content differs a little from one version of Python to the next.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    documents = []
    for name in sorted(topics):
        paragraphs = []
        for paragraph in _paragraphs(topics[name]):
            words = " ".join(paragraph.split())
            if words not in seen:
                seen.add(words)
                paragraphs.append(paragraph)
        if paragraphs:
            documents.append(paragraphs)
    return _packed(documents, kind, licence="PSF-2.0")


def text(kind: Text) -> Data:
    """The text of a file: its paragraphs, or the documents in its lines.

    Raises StillhouseError for a file that is missing, is not UTF-8 or JSON Lines, or lacks the field.
    """
    path = resolve_file(kind.path, "data.path")
    content = read_utf8(path)
    if path.suffix == ".jsonl":
        documents = [[document] for document in dict.fromkeys(_lines(content, path, kind.field))]
    elif kind.field is not None:
        raise StillhouseError(f"data.field: {path} is read as plain text; only a .jsonl file has fields")
    else:
        documents = [list(_paragraphs(content))]
    return _packed(documents, kind)


def read_utf8(path: Path) -> str:
    """A file's text. Raises StillhouseError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StillhouseError(f"data.path: {path} is not UTF-8 text: {error}") from error


def json_rows(content: str, path: Path) -> Iterator[tuple[int, Any]]:
    """The lines of a JSON Lines file that are not empty, with their numbers. Raises StillhouseError for other lines."""
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise StillhouseError(f"data.path: {path}, line {number} is not JSON: {error}") from error


def _lines(content: str, path: Path, field: str | None) -> Iterator[str]:
    if field is None:
        raise StillhouseError(f"data.field is missing: which key of the lines of {path} is the text?")
    for number, row in json_rows(content, path):
        if not isinstance(row, dict) or not isinstance(row.get(field), str):
            raise StillhouseError(f"data.field: {path}, line {number} has no text under the key {field!r}")
        yield row[field]


def _paragraphs(content: str) -> Iterator[str]:
    """What stands between blank lines, each with the blank line that ends it."""
    for paragraph in content.replace("\r\n", "\n").split("\n\n"):
        if paragraph.strip():
            yield paragraph.strip("\n") + "\n\n"


def _packed(documents: Sequence[Sequence[str]], kind: TextKind, licence: str = "unknown") -> Data:
    """Documents, each a list of parts that no split divides, as blocks of tokens."""
    length = sum(len(part) for document in documents for part in document)
    if not length:
        raise StillhouseError(f"data.path: {getattr(kind, 'path', kind.word)} is empty: it holds no text")
    runs = _stretches(documents, kind)
    tokenizer = tokenizer_of(kind, runs["train"])
    sources = {}
    for split in SPLITS:
        blocks = _blocks(runs[split], tokenizer, kind.block)
        if not len(blocks):
            share = "smaller data.test and data.validation" if split == "train" else f"a larger data.{split}"
            raise StillhouseError(
                f"data: of the text's {length:,} characters the {split} split got no stretch of {kind.block} tokens: "
                f"give more text, a smaller data.block, or {share}"
            )
        sources[split] = TextBlocks(blocks)
    facts = Facts("language", (kind.block,), len(tokenizer), tokenizer=tokenizer, licence=licence)
    return Data(**sources, facts=facts)


def _stretches(documents: Sequence[Sequence[str]], kind: TextKind) -> dict[str, list[str]]:
    """Contiguous stretches of text by split: the last share of each tenth is test, the one before it validation.

    The end of a document is marked; a stretch of text is in one split as a whole.
    """
    length = sum(len(part) for document in documents for part in document)
    runs: dict[str, list[str]] = {split: [] for split in SPLITS}
    done, last = 0, ""
    for document in documents:
        for number, part in enumerate(document):
            place = (done + len(part) / 2) / length * PERIODS % 1  # of the part's middle within its tenth
            split = "train" if place < 1 - kind.test - kind.validation else SPLITS[1 + (place >= 1 - kind.test)]
            ended = part + END if number == len(document) - 1 else part
            if split == last:
                runs[split][-1] += ended
            else:
                runs[split].append(ended)
            done, last = done + len(part), split
    return runs


def tokenizer_of(kind: TextKind, texts: list[str]) -> Any:
    """The tokenizer that the data names, or one trained on these texts."""
    if kind.tokenizer:
        return loaded_tokenizer(kind.tokenizer)
    return trained_tokenizer(texts, kind.vocabulary, mask=kind.mask)


def trained_tokenizer(runs: list[str], vocabulary: int, *, mask: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level byte-pair vocabulary (Sennrich et al. 2016, arXiv:1508.07909), the same for the same text.

    With `mask`, one of its tokens stands for masked positions.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, MASK] if mask else [END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for run in runs for piece in run.split(END)), trainer)
    named = {"mask_token": MASK} if mask else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, **named)


def loaded_tokenizer(path: str) -> Any:
    """The tokenizer in a folder or on the hub. Raises StillhouseError where it cannot be read."""
    try:
        return AutoTokenizer.from_pretrained(located(path, "data.tokenizer", "a tokenizer"))
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise StillhouseError(
            f"data.tokenizer: cannot load {path!r}: {said} Check the name and the connection, or give a folder"
        ) from error


def _blocks(runs: Sequence[str], tokenizer: Any, length: int) -> Tensor:
    """[N, length] token ids: each stretch cut into whole blocks; what is left at its end is dropped."""
    end = tokenizer.eos_token_id
    blocks = []
    for run in runs:
        ids: list[int] = []
        pieces = run.split(END)
        for number, piece in enumerate(pieces):
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
            if number < len(pieces) - 1 and end is not None:
                ids.append(end)
        whole = len(ids) - len(ids) % length
        blocks.append(torch.tensor(ids[:whole], dtype=torch.long).view(-1, length))
    return torch.cat(blocks) if blocks else torch.empty(0, length, dtype=torch.long)
