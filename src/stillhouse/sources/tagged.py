"""Words with a tag each: the names in Python's standard library, and files of one's own."""

from __future__ import annotations

import io
import keyword
import tokenize
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillhouse.engine.contracts import IGNORED, Data, Facts
from stillhouse.engine.paths import resolve_file
from stillhouse.errors import StillhouseError, nearest
from stillhouse.sources.docstrings import TOPICS, Paragraphs, module_files
from stillhouse.sources.encoder_kinds import PythonNames, Tagged
from stillhouse.sources.kinds import TextKind
from stillhouse.sources.splits import by_class
from stillhouse.sources.text import SPLITS, json_rows, read_utf8, tokenizer_of

SEED = 0
USES = ("name", "keyword", "call", "method", "attribute", "argument", "definition")
"""What a name in a statement is, as a class each."""
LEAST = 3
"""Names of the shortest statement that is kept."""

Sentence = tuple[tuple[str, ...], tuple[int, ...]]
"""Words, and the number of each one's tag."""


@cache
def python_names(kind: PythonNames) -> Data:
    """Statements of some modules of the standard library; those of one file are in one split.

    Content differs a little from one version of Python to the next.
    """
    files = [path for modules in TOPICS.values() for module in modules.split() for path in module_files(module)]
    if not files:
        raise StillhouseError("data: the sources of the standard library, which the names are read from, are not there")
    found = {statement: number for number, path in enumerate(files) for statement in _statements(path)}
    every = max(1, len(found) // kind.lines)
    kept = list(found.items())[::every][: kind.lines]
    parts = by_class(torch.zeros(len(files), dtype=torch.long), [kind.test, kind.validation], seed=SEED)
    split_of = {
        row: split for split, part in zip(("test", "validation", "train"), parts, strict=True) for row in part.tolist()
    }
    sentences = {split: [statement for statement, file in kept if split_of[file] == split] for split in SPLITS}
    return _data(sentences, kind, USES, licence="PSF-2.0")


def tagged(kind: Tagged) -> Data:
    """The rows of the file in `kind.path`, split once with a fixed seed.

    Raises StillhouseError for a file that cannot be read, a row without words or with another number of tags, and
    tags that are neither words nor numbers with names.
    """
    path = resolve_file(kind.path, "data.path")
    rows = [_checked(row, number, path, kind) for number, row in enumerate(_rows(path), 1)]
    if len(rows) < 3:
        raise StillhouseError(f"data.path: {path} holds {len(rows)} rows; three splits need one each at least")
    tags = {tag for _, row_tags in rows for tag in row_tags}
    if all(isinstance(tag, str) for tag in tags):
        names = tuple(sorted(tags))
        if kind.names:
            raise StillhouseError("data.names is for tags that are numbers, and those of the file are words")
    elif all(isinstance(tag, int) and tag >= 0 for tag in tags):
        names = tuple(kind.names) or tuple(str(number) for number in range(max(tags) + 1))
        if max(tags) >= len(names):
            raise StillhouseError(f"data.names names {len(names)} tags, and {path} has one of number {max(tags)}")
    else:
        raise StillhouseError(f"{path}: tags have to be all words, or all whole numbers from 0")
    place = {name: number for number, name in enumerate(names)}
    numbered = [(words, tuple(place.get(tag, tag) for tag in row_tags)) for words, row_tags in rows]
    parts = by_class(torch.zeros(len(rows), dtype=torch.long), [kind.test, kind.validation], seed=SEED)
    sentences = {
        split: [numbered[row] for row in part.tolist()]
        for split, part in zip(("test", "validation", "train"), parts, strict=True)
    }
    return _data(sentences, kind, names)


def _data(sentences: dict[str, list[Any]], kind: TextKind, names: Sequence[str], licence: str = "unknown") -> Data:
    texts = [" ".join(words) for words, _ in sentences["train"]]
    tokenizer = tokenizer_of(kind, texts)
    splits = {split: Paragraphs(*_encoded(sentences[split], tokenizer, kind.block)) for split in SPLITS}
    facts = Facts("tagging", (kind.block,), len(names), tuple(names), tokenizer, licence)
    return Data(**splits, facts=facts)


def _encoded(sentences: list[Sentence], tokenizer: Any, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and labels, [N, block] each: a word's tag at its first token, -100 at all others.

    Every word is encoded as one that follows a space.
    """
    pieces: dict[str, list[int]] = {}
    first = [tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.eos_token_id]
    last = [tokenizer.sep_token_id] if tokenizer.sep_token_id is not None else []
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else first[0]
    ids = torch.full((len(sentences), block), padding)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, (words, tags) in enumerate(sentences):
        tokens, marks = list(first), [IGNORED]
        for word, tag in zip(words, tags, strict=True):
            if word not in pieces:
                pieces[word] = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
            tokens += pieces[word]
            marks += [tag, *[IGNORED] * (len(pieces[word]) - 1)][: len(pieces[word])]
        tokens, marks = tokens[: block - len(last)] + last, marks[: block - len(last)] + [IGNORED] * len(last)
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        labels[row, : len(tokens)] = torch.tensor(marks)
    return ids, mask, labels


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        try:
            yield from parquet.read_table(path).to_pylist()
        except pyarrow.ArrowInvalid as error:
            raise StillhouseError(f"data.path: {path} cannot be read as a table: {error}") from error
        return
    for number, row in json_rows(read_utf8(path), path):
        if not isinstance(row, dict):
            raise StillhouseError(f"data.path: {path}, line {number} is no JSON object")
        yield row


def _checked(row: dict[str, Any], number: int, path: Path, kind: Tagged) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    for name in (kind.words, kind.tags):
        if name not in row:
            raise StillhouseError(f"{path}, row {number} has no {name!r}; {nearest(name, row)}")
    words, tags = row[kind.words], row[kind.tags]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise StillhouseError(f"{path}, row {number}: {kind.words!r} is to be a list of words")
    if not isinstance(tags, list) or len(tags) != len(words):
        raise StillhouseError(f"{path}, row {number}: {kind.tags!r} is to be a list of {len(words)} tags, one a word")
    return tuple(words), tuple(tags)


def _statements(path: Path) -> Iterator[Sentence]:
    """The names of each logical line of a source file, and what each is used as."""
    line: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.NEWLINE:
            words, uses = uses_of(line)
            if len(words) >= LEAST:
                yield words, uses
            line = []
        elif token.type in (tokenize.NAME, tokenize.OP):
            line.append(token.string)


def uses_of(line: Sequence[str]) -> Sentence:
    """The names of a line of names and punctuation."""
    words, uses, depth = [], [], 0
    for before, word, after in zip(["", *line], line, [*line[1:], ""], strict=False):
        depth += (word in "([{") - (word in ")]}")
        if not word.isidentifier():
            continue
        words.append(word)
        if keyword.iskeyword(word):
            use = "keyword"
        elif before in ("def", "class"):
            use = "definition"
        elif before == ".":
            use = "method" if after == "(" else "attribute"
        elif after == "(":
            use = "call"
        else:
            use = "argument" if depth and after == "=" else "name"
        uses.append(USES.index(use))
    return tuple(words), tuple(uses)
