"""Text as blocks of tokens: what ends up where, and that no split holds text of another."""

import json
import random

import pytest
import torch

from stillhouse.errors import StillhouseError
from stillhouse.sources.kinds import PythonTopics, Text
from stillhouse.sources.text import END, SPLITS

WORDS = ["still", "copper", "kettle", "barley", "water", "smoke", "cask", "oak", "peat", "spirit", "heads", "tails"]


def paragraphs(count: int, seed: int = 0) -> list[str]:
    """Paragraphs of common words, each with a number of its own."""
    draw = random.Random(seed)
    return [f"No. {1000 + n}: " + " ".join(draw.choices(WORDS, k=30)) + "." for n in range(count)]


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("\n\n".join(paragraphs(400)))
    return path


def decoded(data, split):
    source = getattr(data, split)
    return [data.facts.tokenizer.decode(block.tolist()) for block in source.blocks]


def test_blocks_are_stretches_of_the_text(text_file):
    data = Text(path=str(text_file), block=32, vocabulary=300).build()
    whole = text_file.read_text()
    for split in SPLITS:
        blocks = decoded(data, split)
        assert blocks
        assert all(block.rstrip("\n") in whole for block in blocks if END not in block)  # none spans two stretches


def test_splits_share_no_paragraph_and_have_their_shares(text_file):
    data = Text(path=str(text_file), block=16, vocabulary=300, test=0.2, validation=0.1).build()
    numbers = {
        split: {n for b in decoded(data, split) for n in range(1000, 1400) if f"No. {n}:" in b} for split in SPLITS
    }
    assert not numbers["train"] & numbers["test"]
    assert not numbers["train"] & numbers["validation"]
    assert not numbers["test"] & numbers["validation"]
    total = sum(len(getattr(data, split)) for split in SPLITS)
    assert len(data.test) / total == pytest.approx(0.2, abs=0.03)
    assert len(data.validation) / total == pytest.approx(0.1, abs=0.03)
    spread = {n // 40 for n in numbers["test"]}
    assert len(spread) == 10  # a stretch in every tenth of the text


def test_the_vocabulary_is_trained_on_the_training_split_alone(tmp_path):
    parts = paragraphs(400)
    for number in (38, 39, 78, 79):  # the end of a tenth is test
        parts[number] = ("zqzqzqzq " * 60)[: len(parts[number])]
    path = tmp_path / "odd.txt"
    path.write_text("\n\n".join(parts))
    data = Text(path=str(path), block=16, vocabulary=400).build()
    assert any("zqzq" in block for block in decoded(data, "test"))
    assert not any("zq" in token for token in data.facts.tokenizer.get_vocab())


def test_the_same_text_gives_the_same_tokens(text_file):
    one, two = (Text(path=str(text_file), block=16, vocabulary=350).build() for _ in range(2))
    assert one.facts.tokenizer.get_vocab() == two.facts.tokenizer.get_vocab()
    assert one.train.fingerprint == two.train.fingerprint
    assert len({getattr(one, split).fingerprint for split in SPLITS}) == 3
    assert one.facts.classes == 350 == len(one.facts.tokenizer)
    assert one.facts.shape == (16,)


def test_fetch_gives_what_is_asked_for(text_file):
    source = Text(path=str(text_file), block=16, vocabulary=300).build().train
    batch = source.fetch(torch.tensor([3, 0]), None)
    assert torch.equal(batch["input_ids"], source.blocks[[3, 0]])
    assert torch.equal(batch["labels"], batch["input_ids"])
    batch["labels"][:] = -100
    assert (source.fetch(torch.tensor([3]), None)["labels"] >= 0).all()


def test_a_tokenizer_from_a_folder_reads_as_the_trained_one(text_file, tmp_path):
    trained = Text(path=str(text_file), block=16, vocabulary=300).build()
    trained.facts.tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = Text(path=str(text_file), block=16, tokenizer=str(tmp_path / "tokenizer")).build()
    assert loaded.train.fingerprint == trained.train.fingerprint
    assert loaded.facts.classes == 300


def test_lines_are_documents_with_an_end_each(tmp_path):
    rows = [{"answer": part, "question": "?"} for part in paragraphs(300)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [*rows, rows[0]]))  # the last repeats the first
    data = Text(path=str(path), field="answer", block=16, vocabulary=300).build()
    texts = {split: "".join(decoded(data, split)) for split in SPLITS}
    assert sum(text.count("No. 1000:") for text in texts.values()) == 1
    assert "?" not in texts["train"]
    begun = [block for block in decoded(data, "train") if "No. " in block[1:]]
    assert len(begun) > 100
    assert all(block[: block.index("No. ", 1)].endswith(END) for block in begun)
    end = data.facts.tokenizer.eos_token_id
    assert (data.train.blocks == end).sum() > 100


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ('{"text": "a"}\nnot json', {"field": "text"}, "line 2 is not JSON"),
        ('{"text": 3}', {"field": "text"}, "line 1 has no text under the key 'text'"),
        ('{"text": "a"}', {}, "data.field is missing"),
    ],
)
def test_bad_lines_are_named(tmp_path, content, options, said):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(StillhouseError, match=said):
        Text(path=str(path), **options).build()


def test_bad_files_are_named(tmp_path, text_file):
    with pytest.raises(StillhouseError, match="does not exist"):
        Text(path=str(tmp_path / "absent.txt")).build()
    with pytest.raises(StillhouseError, match=r"only a \.jsonl file has fields"):
        Text(path=str(text_file), field="text").build()
    with pytest.raises(StillhouseError, match="no folder"):
        Text(path=str(text_file), tokenizer=str(tmp_path / "absent")).build()
    short = tmp_path / "short.txt"
    short.write_text("One line.\n\nAnother.")
    with pytest.raises(StillhouseError, match=r"21 characters .* no stretch of 64 tokens.* smaller data.test"):
        Text(path=str(short)).build()
    short.write_text(" \n\n ")
    with pytest.raises(StillhouseError, match=r"short\.txt is empty"):
        Text(path=str(short)).build()
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StillhouseError, match="not UTF-8"):
        Text(path=str(binary)).build()


def test_python_topics_leak_no_paragraph():
    data = PythonTopics().build()
    train = "".join(decoded(data, "train"))
    held_out = [p for s in ("validation", "test") for b in decoded(data, s) for p in b.split("\n\n")[1:-1]]
    long = [paragraph for paragraph in held_out if len(paragraph) > 60]
    assert len(long) > 30
    assert not [paragraph for paragraph in long if f"\n\n{paragraph}\n\n" in train]
    assert min(len(data.validation), len(data.test)) > 100
    assert data.facts.task == "language"
