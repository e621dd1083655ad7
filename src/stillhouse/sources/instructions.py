"""Small tasks on strings of letters, in words: what a language model is asked, and how it is to answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from stillhouse.engine.contracts import IGNORED, Batch, Data, Facts
from stillhouse.sources.made_kinds import Instructions
from stillhouse.sources.text import END

SEED = 0
LETTERS = "abcdefgh"
KNOWN: dict[str, Callable[[str], str]] = {
    "copy": lambda x: x,
    "reverse": lambda x: x[::-1],
    "rotate": lambda x: x[1:] + x[:1],
    "swap": lambda x: x[-1] + x[1:-1] + x[0],
}
NEW = "next"
SKILLS = KNOWN | {NEW: lambda x: "".join(LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in x)}
WORDS = (END, "?", "the", "answer", "is", "RESULT", ":", ",", "reference", "rewrite", *SKILLS)

Example = tuple[str, str, str, bool]
"""Prompt, answer, the prompt that asks for a rewriting of the gold answer, and whether the skill is new."""


class Instructed:
    """A `Source` of prompts with answers.

    `input_ids`, `attention_mask` [B, T]; `labels` [B, T], -100 on the prompt and behind the end; `rewrite_ids` [B, R],
    the prompt that asks for the gold answer in the model's own words; `new` [B], whether the skill is the new one.
    """

    def __init__(self, examples: list[Example], tokenizer: Any) -> None:
        prompts = [_ids(prompt, tokenizer) for prompt, _, _, _ in examples]
        answers = [_ids(answer, tokenizer) for _, answer, _, _ in examples]
        shape = len(examples), max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        ids = torch.full(shape, tokenizer.eos_token_id)
        mask, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : end] = torch.tensor(answer)
            mask[row, :end] = 1
        self.fields: dict[str, Tensor] = {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": labels,
            "rewrite_ids": torch.tensor([_ids(request, tokenizer) for _, _, request, _ in examples]),
            "new": torch.tensor([new for _, _, _, new in examples]),
        }
        self.fingerprint = hashlib.sha256(b"".join(f.numpy().tobytes() for f in self.fields.values())).hexdigest()

    def __len__(self) -> int:
        return len(self.fields["new"])

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        del rng
        return {"index": indices} | {name: value.index_select(0, indices) for name, value in self.fields.items()}


def instructions(kind: Instructions) -> Data:
    """Strings drawn once without repetition, the last ones for validation and test, which are the same for both
    `skills`; training strings are drawn evenly from the others."""
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(LETTERS) ** kind.letters)
    held_out = kind.validation + kind.test
    free, kept = order[:-held_out], [_string(number, kind.letters) for number in order[-held_out:]]
    tests = [_gold(string) if row % 2 else _answered(string, _any(rng)) for row, string in enumerate(kept)]
    drawn = [_string(int(number), kind.letters) for number in rng.choice(free, kind.train)]
    if kind.skills == "new":
        train = [_gold(string) for string in drawn]
    else:
        train = [
            _rewritten(string, _string(int(rng.choice(order)), kind.letters), _any(rng))
            if row % 2
            else _answered(string, NEW if rng.random() < kind.rare else _any(rng))
            for row, string in enumerate(drawn)
        ]
    tokenizer = _tokenizer()
    splits = (Instructed(part, tokenizer) for part in (train, tests[: kind.validation], tests[kind.validation :]))
    length = len(_ids(_rewritten("a" * kind.letters, "a" * kind.letters, "copy")[0], tokenizer)) + kind.letters + 4
    return Data(*splits, facts=Facts("language", (length,), len(tokenizer), tokenizer=tokenizer, licence="made up"))


def _answered(string: str, skill: str) -> Example:
    """An instruction answered in the assistant's own way."""
    result = SKILLS[skill](string)
    return _prompt(skill, string), _own(result), _request(skill, string, _foreign(result)), skill == NEW


def _gold(string: str) -> Example:
    """The new skill with its answer in the other style."""
    prompt, _, request, new = _answered(string, NEW)
    return prompt, f"{_foreign(SKILLS[NEW](string))} {END}", request, new


def _rewritten(string: str, says: str, skill: str) -> Example:
    """The request to rewrite a reference that says anything at all, so that it has to be read."""
    request = _request(skill, string, _foreign(says))
    return request, _own(says), request, False


def _prompt(skill: str, string: str) -> str:
    return f"{skill} {' '.join(string)} ?"


def _request(skill: str, string: str, reference: str) -> str:
    return f"{skill} {' '.join(string)} reference {reference} rewrite ?"


def _own(result: str) -> str:
    return f"the answer is {' '.join(result)} {END}"


def _foreign(result: str) -> str:
    return f"RESULT : {' , '.join(result.upper())}"


def _any(rng: np.random.Generator) -> str:
    return list(KNOWN)[rng.integers(len(KNOWN))]


def _string(number: int, length: int) -> str:
    return "".join(LETTERS[number // len(LETTERS) ** place % len(LETTERS)] for place in range(length))


def _tokenizer() -> PreTrainedTokenizerFast:
    """A token a word."""
    words = {word: number for number, word in enumerate([*WORDS, *LETTERS, *LETTERS.upper()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def _ids(text: str, tokenizer: Any) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
