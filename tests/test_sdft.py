"""Fine-tuning on rewritten answers: what is asked, what is kept, what is trained on, what is measured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Batch, Data
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.evaluation.instructions import rewriting, skills
from stillhouse.evaluation.task_kinds import Rewriting, Skills
from stillhouse.methods.roles import Roles
from stillhouse.methods.self_kinds import SDFT
from stillhouse.sources.instructions import KNOWN
from stillhouse.sources.made_kinds import Instructions
from stillhouse.sources.rewriting import prompt_length, rewritten, same_answers
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.model import Model
from stillhouse.views.tokens import TokenView

ANSWER = r"\b[a-hA-H]\b"
NEW = Instructions(skills="new", letters=3, train=12, validation=4, test=8)
KNOWN_ONES = NEW.model_copy(update={"skills": "known", "train": 40})


class Scribe(nn.Module):
    """A language model that writes, after each prompt, the text it was given for it, and then ends for ever."""

    def __init__(self, data: Data, said: dict[tuple[int, ...], list[int]]) -> None:
        super().__init__()
        self.vocabulary, self.end, self.said = data.facts.classes, data.facts.tokenizer.eos_token_id, said
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Tensor | None = None,
        use_cache: bool = False,
    ) -> SimpleNamespace:
        seen = input_ids if past_key_values is None else torch.cat([past_key_values, input_ids], 1)
        ahead = torch.full_like(seen, self.end)
        for row, ids in enumerate(seen.tolist()):
            for prompt, text in self.said.items():
                if tuple(ids[: len(prompt)]) == prompt:
                    written = text[: len(ids) - len(prompt) + 1]
                    ahead[row, len(prompt) - 1 : len(prompt) - 1 + len(written)] = torch.tensor(written)
        logits = self.scale * nn.functional.one_hot(ahead, self.vocabulary).float()
        return SimpleNamespace(logits=logits[:, -input_ids.shape[1] :], past_key_values=seen)


def ids(data: Data, text: str) -> list[int]:
    return data.facts.tokenizer(text, add_special_tokens=False)["input_ids"]


def texts(data: Data, batch: Batch, name: str = "input_ids") -> list[str]:
    return [data.facts.tokenizer.decode(row) for row in batch[name].tolist()]


def scribe(data: Data, batch: Batch, answers: list[str]) -> Scribe:
    requests = (tuple(row) for row in batch["rewrite_ids"].tolist())
    return Scribe(data, {request: ids(data, answer) for request, answer in zip(requests, answers, strict=True)})


def test_both_parts_are_measured_on_the_same_strings_and_trained_on_none_of_them() -> None:
    new, known = NEW.build(), KNOWN_ONES.build()
    assert new.test.fingerprint == known.test.fingerprint
    held_out = {text[:8].split(" ", 1)[1] for text in texts(new, new.test.fetch(torch.arange(8), None))}
    for data, count in ((new, 12), (known, 40)):
        prompts = [
            text.split(" ? ")[0].split(" ", 1)[1] for text in texts(data, data.train.fetch(torch.arange(count), None))
        ]
        assert not {prompt[:5] for prompt in prompts} & held_out
    assert new.test.fetch(torch.arange(8), None)["new"].tolist() == [False, True] * 4


def test_known_skills_are_answered_in_one_style_and_references_in_another_say_anything() -> None:
    data = KNOWN_ONES.build()
    for row, text in enumerate(texts(data, data.train.fetch(torch.arange(40), None))):
        skill, string = text[: text.index(" ")], text.split(" ", 1)[1][:5].replace(" ", "")
        said = text.split("the answer is ")[1][:5].replace(" ", "")
        if row % 2:
            reference = text.split("reference RESULT : ")[1][:9]
            assert said.upper() == reference.replace(" , ", "")
        else:
            assert said == KNOWN[skill](string)


def test_a_rewriting_is_kept_where_it_ends_and_says_the_same() -> None:
    data = NEW.build()
    batch = data.train.fetch(torch.arange(4), None)
    results = [text.split("RESULT : ")[1][:9] for text in texts(data, batch)]
    plain = [result.replace(" ,", "").lower() for result in results]
    wrong = plain[1][:-1] + ("a" if plain[1][-1] != "a" else "b")
    answers = [
        f"the answer is {plain[0]} <|endoftext|>",
        f"the answer is {wrong} <|endoftext|>",
        f"the answer is {plain[2]} " + "the " * 9,
        f"{plain[3]} <|endoftext|>",
    ]
    network = scribe(data, batch, answers)
    own, kept = rewritten(network, batch, data.facts.tokenizer, torch.Generator(), answer=ANSWER, length=9)
    assert kept.tolist() == [True, False, False, True]
    length = prompt_length(batch)
    assert (own["labels"][:, :length] == -100).all()
    targets = [row[row != -100].tolist() for row in own["labels"]]
    assert targets[0] == ids(data, answers[0])
    assert targets[3] == ids(data, answers[3])
    for row in (1, 2):
        gold = batch["labels"][row]
        assert targets[row] == gold[gold != -100].tolist()
    assert torch.equal(own["input_ids"][:, :length], batch["input_ids"][:, :length])


def test_answers_are_compared_by_what_counts_in_their_order() -> None:
    data = NEW.build()
    pairs = [("the answer is a b c", "RESULT : A , B , C", True), ("the answer is a c b", "RESULT : A , B , C", False)]
    for own, gold, same in pairs:
        found = same_answers(
            torch.tensor([ids(data, own)]), torch.tensor([ids(data, gold)]), data.facts.tokenizer, ANSWER
        )
        assert found.tolist() == [same]


def test_the_student_learns_the_rewritten_answer_and_the_gold_one_where_there_is_none() -> None:
    data = NEW.build()
    batch = data.train.fetch(torch.arange(12), None)
    plain = [text.split("RESULT : ")[1][:9].replace(" ,", "").lower() for text in texts(data, batch)]
    answers = [f"the answer is {p} <|endoftext|>" if row % 3 else "the <|endoftext|>" for row, p in enumerate(plain)]
    seed = Frozen(Model(scribe(data, batch, answers), TokenView()))
    fluent = {
        tuple(row[: prompt_length(batch)]): ids(data, a)
        for row, a in zip(batch["input_ids"].tolist(), answers, strict=True)
    }
    student = Model(Scribe(data, fluent), TokenView())
    method = SDFT(answer=ANSWER, length=9).build(Roles(student, seed, data.facts, batch, source=data.train))
    assert method.told() == {"rewritten": pytest.approx(8 / 12)}
    some = data.train.fetch(torch.tensor([5, 0, 4]), None)
    (loss,) = method.update_student(some, torch.Generator()).values()
    by_text = (loss.values * loss.where).sum(1) / loss.where.sum(1)
    assert by_text[0] < 1e-3
    assert by_text[2] < 1e-3
    assert by_text[1] > 5  # kept as it was: gold


def test_without_a_seed_model_it_says_what_to_do() -> None:
    data = NEW.build()
    student = Model(Scribe(data, {}), TokenView())
    with pytest.raises(StillhouseError, match="name it under 'teacher'"):
        SDFT(answer=ANSWER, length=9).build(Roles(student, None, data.facts, data.train.fetch(torch.arange(2), None)))


def test_skills_are_told_apart_and_style_does_not_count_as_right_or_wrong() -> None:
    data = NEW.build()
    batch = data.test.fetch(torch.arange(8), None)
    said = {}
    for row, (prompt, text) in enumerate(zip(batch["input_ids"].tolist(), texts(data, batch), strict=True)):
        gold = text.split(" ? ")[1].split(" <|endoftext|>")[0]
        if row == 0:
            gold = gold.replace("the answer is", "RESULT :")  # right in another style
        if row in (1, 3, 5):
            gold = "the answer is"
        said[tuple(prompt[: prompt_length(batch)])] = ids(data, f"{gold} <|endoftext|>")
    arm = Arm("student", Model(Scribe(data, said), TokenView()))
    context = Context(data, data.test, {}, seed=0, device="cpu")
    found = skills(Skills(answer=ANSWER, length=10), arm, context)
    assert found.metrics == {"known_skills": 1.0, "known_style": 0.75, "new_skill": 0.25}


def test_rewriting_is_measured_on_the_new_skill_alone() -> None:
    data = NEW.build()
    batch = data.test.fetch(torch.arange(8), None)
    results = [text.split("RESULT : ")[-1][:9].replace(" ,", "").lower() for text in texts(data, batch, "rewrite_ids")]
    said = scribe(data, batch, [f"the answer is {r} <|endoftext|>" for r in results]).said
    for prompt, result in zip(batch["input_ids"].tolist(), results, strict=True):
        said[tuple(prompt[: prompt_length(batch)])] = ids(data, f"the answer is {result} <|endoftext|>")
    arm = Arm("seed", Model(Scribe(data, said), TokenView()))
    found = rewriting(Rewriting(answer=ANSWER, length=9), arm, Context(data, data.test, {}, seed=0, device="cpu"))
    assert found.metrics["rewritten"] == 1.0
    assert found.metrics["rewritten_nll"] < 1e-3
    assert found.metrics["gold_nll"] > 10
