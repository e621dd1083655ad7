"""Words with a tag each: sources, the measurement, and a distillation of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from pyarrow import parquet

from stillhouse.engine.contracts import IGNORED, Batch, Data
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.encoder_kinds import Tags
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.evaluation.tagging import spans, tags
from stillhouse.recipe.execute import distill
from stillhouse.recipe.text import load
from stillhouse.sources.encoder_kinds import Tagged
from stillhouse.sources.tagged import USES, uses_of

ROWS = [
    {"tokens": ["Ada", "met", "Grace", "Hopper"], "tags": ["B-PER", "O", "B-PER", "I-PER"]},
    {"tokens": ["in", "New", "York"], "tags": ["O", "B-LOC", "I-LOC"]},
] * 20


def jsonl(folder: Path, rows: list[Any]) -> Path:
    path = folder / "words.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def built(path: Path, **words: Any) -> Data:
    return Tagged(path=str(path), vocabulary=300, block=16, **words).build()


def test_each_word_has_its_tag_at_its_first_token_and_every_word_is_there(tmp_path: Path) -> None:
    data = built(jsonl(tmp_path, ROWS))
    assert data.facts.names == ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
    batch = data.train.fetch(torch.arange(len(data.train)), None)
    expected = {(" " + " ".join(row["tokens"]), tuple(row["tags"])) for row in ROWS}
    read = set()
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        assert (labels[mask == 0] == IGNORED).all()
        text = data.facts.tokenizer.decode(ids[1 : int(mask.sum())])
        read.add((text, tuple(data.facts.names[n] for n in labels[labels != IGNORED])))
        starts = [data.facts.tokenizer.decode([i])[0] for i in ids[labels != IGNORED]]
        assert set(starts) == {" "}  # a word of this vocabulary begins with its space
    assert read == expected


def test_a_parquet_file_and_numbers_with_names_give_the_same(tmp_path: Path) -> None:
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    numbered = [{"tokens": row["tokens"], "tags": [names.index(tag) for tag in row["tags"]]} for row in ROWS]
    parquet.write_table(pyarrow.Table.from_pylist(numbered), tmp_path / "words.parquet")
    data, other = built(tmp_path / "words.parquet", names=names), built(jsonl(tmp_path, ROWS))
    ours, theirs = (d.test.fetch(torch.arange(len(d.test)), None) for d in (data, other))
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    told = [[d.facts.names[n] for n in b["labels"][b["labels"] >= 0]] for d, b in ((data, ours), (other, theirs))]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "row 41: 'tags' is to be a list of 2 tags"),
        ({"words": ["a"], "tags": ["O"]}, "row 41 has no 'tokens'"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "is to be a list of words"),
        ({"tokens": ["a"], "tags": [1]}, "tags have to be all words, or all whole numbers"),
        (["a"], "line 41 is no JSON object"),
    ],
)
def test_a_row_that_is_none_is_told(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(StillhouseError, match=said):
        built(jsonl(tmp_path, [*ROWS, row]))


def test_uses_of_names_follow_python() -> None:
    line = ["self", ".", "x", "=", "f", "(", "y", ",", "key", "=", "g", ".", "h", "(", "None", ")", ")"]
    words, uses = uses_of(line)
    told = {word: USES[use] for word, use in zip(words, uses, strict=True)}
    assert told == {
        "self": "name", "x": "attribute", "f": "call", "y": "name", "key": "argument", "g": "name", "h": "method",
        "None": "keyword",
    }  # fmt: skip
    assert uses_of(["def", "go", "(", ")", ":"])[1] == (USES.index("keyword"), USES.index("definition"))


def test_spans_are_those_of_conll() -> None:
    assert spans(["B-A", "I-A", "O", "B-A", "B-A"]) == {(0, 2, "A"), (3, 4, "A"), (4, 5, "A")}
    assert spans(["I-A", "I-B", "I-B"]) == {(0, 1, "A"), (1, 3, "B")}
    assert spans([]) == set()


def test_the_measurement_counts_what_it_says(tmp_path: Path) -> None:
    """Against sums by hand: an answer that is right but for every tag of Hopper, which it calls O."""
    data = built(jsonl(tmp_path, ROWS))
    inside, outside = data.facts.names.index("I-PER"), data.facts.names.index("O")

    class Answers:
        def signals(self, batch: Batch) -> Batch:
            wrong = torch.where(batch["labels"] == inside, outside, batch["labels"].clamp(min=0))
            return {"logits": torch.nn.functional.one_hot(wrong, 5).float()}

        def modules(self) -> list[Any]:
            return []

        def eval(self) -> None:
            pass

    arm = Arm("student", Answers(), None)  # type: ignore[arg-type]
    context = Context(data=data, source=data.test, device=torch.device("cpu"), arms={"student": arm}, seed=0)
    found = tags(Tags(), arm, context)
    people = sum(len(row) == 4 for row in found_rows(data))
    places = len(found_rows(data)) - people
    assert found.metrics["tag_accuracy"] == pytest.approx((people * 3 / 4 + places) / (people + places))
    o = 2 * (people + places) / (2 * (people + places) + people)
    assert found.metrics["tag_f1"] == pytest.approx((1 + 1 + 1 + 0 + o) / 5)
    assert found.metrics["span_f1"] == pytest.approx(2 * (people + places) / (2 * (2 * people + places)))


def found_rows(data: Data) -> list[torch.Tensor]:
    labels = data.test.fetch(torch.arange(len(data.test)), None)["labels"]
    return [row[row != IGNORED] for row in labels]


def test_a_tagger_is_distilled_on_its_words_alone(tmp_path: Path) -> None:
    """A teacher that knows the file's spans hands its tags over."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
name: tagger
about: names of people and places
data: {{kind: tagged, path: {jsonl(tmp_path, ROWS)}, vocabulary: 300, block: 16}}
teacher:
  network: {{kind: bert, head: tokens, width: 32, layers: 1, dropout: 0}}
  weights: {{kind: trained, steps: 60, batch_size: 12, optimizer: {{kind: adamw, lr: 1.0e-2}}}}
student: {{network: {{kind: bert, head: tokens, width: 16, layers: 1, heads: 2, dropout: 0}}}}
method: {{kind: match, terms: [kl]}}
train: {{steps: 60, batch_size: 12, optimizer: {{kind: adamw, lr: 1.0e-2}}}}
evaluate: [tags]
control: false
""",
        encoding="utf-8",
    )
    arms = distill(load(recipe), out=str(tmp_path / "run"), progress=False).summary["arms"]
    assert arms["teacher"]["span_f1"] > 0.95
    assert arms["student"]["tag_agreement"] > 0.9
