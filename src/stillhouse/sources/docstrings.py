"""The docstrings of Python's standard library, by what their module is for."""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Data, Facts
from stillhouse.errors import StillhouseError
from stillhouse.sources.encoder_kinds import Docstrings
from stillhouse.sources.splits import by_class, some_of_each
from stillhouse.sources.text import END, SPLITS, tokenizer_of

SEED = 0
LEAST = 50
"""Characters of the shortest paragraph that is kept."""
TOPICS = {
    "numbers": "_pydecimal fractions statistics random numbers datetime _pydatetime calendar heapq bisect colorsys",
    "network": "http urllib xmlrpc wsgiref ftplib ssl socket socketserver ipaddress selectors webbrowser",
    "mail": "email mailbox smtplib imaplib poplib mimetypes quopri",
    "markup": "xml html json plistlib csv",
    "concurrency": "asyncio threading multiprocessing concurrent queue sched subprocess contextvars _threading_local",
    "files": "os pathlib shutil tempfile zipfile tarfile gzip bz2 lzma _pyio fileinput filecmp glob posixpath ntpath "
    "shelve dbm pickle genericpath fnmatch wave",
    "testing": "unittest doctest pdb bdb timeit trace profile cProfile pstats traceback cmd code pydoc",
    "code": "importlib inspect typing ast dis tokenize enum dataclasses pkgutil functools types abc pickletools "
    "symtable pyclbr compileall py_compile runpy zipimport modulefinder",
    "settings": "logging argparse optparse getopt configparser platform site sysconfig venv locale gettext",
    "text": "difflib re string textwrap codecs encodings pprint base64 reprlib stringprep",
}
"""Classes and their modules; one that a version of Python lacks is left out."""


class Paragraphs:
    """A `Source` of labelled paragraphs: `input_ids`, `attention_mask` [B, T], `labels` [B] or, of tokens, [B, T].

    Args: ids [N, T] token ids; mask [N, T], zero at padding; labels [N] or [N, T].
    """

    def __init__(self, ids: Tensor, mask: Tensor, labels: Tensor) -> None:
        self.ids, self.mask, self.labels = ids, mask, labels
        content = b"".join(x.numpy().tobytes() for x in (ids, mask, labels))
        self.fingerprint = hashlib.sha256(str(tuple(ids.shape)).encode() + content).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        del rng
        fields = {"input_ids": self.ids, "attention_mask": self.mask, "labels": self.labels}
        return {"index": indices} | {name: value.index_select(0, indices) for name, value in fields.items()}


@cache
def docstrings(kind: Docstrings) -> Data:
    """Paragraphs of at least 50 characters, each beginning with 50 that began none before it.

    A docstring is in one split as a whole; which one is drawn by class with a fixed seed. Content differs
    a little from one version of Python to the next.
    Raises StillhouseError where the standard library's source files are not there.
    """
    documents = _documents()
    if len({topic for topic, _ in documents}) < len(TOPICS):
        raise StillhouseError(
            f"data: {_library()} lacks the sources of some of the standard library's modules: "
            "the docstrings are read from them"
        )
    parts = by_class(torch.tensor([topic for topic, _ in documents]), [kind.test, kind.validation], seed=SEED)
    rows = dict(zip(("test", "validation", "train"), (part.tolist() for part in parts), strict=True))
    texts = {split: [text for row in rows[split] for text in documents[row][1]] for split in SPLITS}
    topics = {
        split: torch.tensor([documents[row][0] for row in rows[split] for _ in documents[row][1]]) for split in SPLITS
    }
    tokenizer = _tokenizer(kind, texts["train"])
    splits = {split: Paragraphs(*_encoded(texts[split], tokenizer, kind.block), topics[split]) for split in SPLITS}
    if kind.limit is not None and kind.limit < len(splits["train"]):
        whole = splits["train"]
        kept = some_of_each(whole.labels, kind.limit, seed=SEED)
        splits["train"] = Paragraphs(whole.ids[kept], whole.mask[kept], whole.labels[kept])
    facts = Facts("classification", (kind.block,), len(TOPICS), tuple(TOPICS), tokenizer, licence="PSF-2.0")
    return Data(**splits, facts=facts)


@cache
def _documents() -> list[tuple[int, list[str]]]:
    """The class and the paragraphs of every docstring, in the order of files and lines."""
    seen: set[str] = set()
    documents = []
    for topic, modules in enumerate(TOPICS.values()):
        for module in modules.split():
            for path in module_files(module):
                for text in _docstrings(ast.parse(path.read_text(encoding="utf-8"))):
                    paragraphs = []
                    for paragraph in text.split("\n\n"):
                        words = " ".join(paragraph.split())
                        if len(words) >= LEAST and words[:LEAST] not in seen:
                            seen.add(words[:LEAST])
                            paragraphs.append(words)
                    if paragraphs:
                        documents.append((topic, paragraphs))
    return documents


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def module_files(module: str) -> list[Path]:
    """A module's file, or a package's files but for its tests."""
    folder = _library() / module
    if folder.is_dir():
        return sorted(path for path in folder.rglob("*.py") if not {"test", "tests"} & set(path.parts))
    return [path for path in [folder.with_suffix(".py")] if path.is_file()]


def _docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Those of a module, class or function, and of the classes and functions in it."""
    yield ast.get_docstring(node) or ""
    for inner in node.body:
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(inner)


def _tokenizer(kind: Docstrings, texts: list[str]) -> Any:
    if kind.read_as is not None:
        data: Data = kind.read_as.build()
        return data.facts.tokenizer
    return tokenizer_of(kind, texts)


def _encoded(texts: list[str], tokenizer: Any, block: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [N, block], each text between the tokenizer's own special tokens.

    A vocabulary that was trained here has no token for the whole of a text, which a classifier reads first, and none
    for padding: the one that ends a text stands for both.
    """
    own = tokenizer.cls_token_id is not None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    encoded = tokenizer(
        texts if own else [END + text for text in texts],
        padding="max_length",
        truncation=True,
        max_length=block,
        return_tensors="pt",
    )
    return encoded["input_ids"], encoded["attention_mask"]
