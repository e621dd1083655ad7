"""Perplexity and the teacher's judgement, against models whose answers are known."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stillhouse.engine.contracts import Data, Facts
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.evaluation.generation_kinds import Perplexity, TeacherJudged
from stillhouse.evaluation.language import PARTED
from stillhouse.networks.kinds import Llama
from stillhouse.views.model import Model
from stillhouse.views.tokens import TokenView

VOCABULARY, TOKENS = 9, 10


class Unigram(nn.Module):
    """Every token is drawn from the same distribution, whatever came before."""

    def __init__(self, probabilities: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(probabilities.log())

    def forward(self, input_ids, past_key_values=None, use_cache=False, attention_mask=None):
        logits = self.logits.expand(*input_ids.shape, -1)
        return SimpleNamespace(logits=logits, past_key_values=past_key_values)


class Texts:
    fingerprint = "texts"

    def __init__(self, ids, mask=None):
        self.ids, self.mask = ids, mask

    def __len__(self):
        return len(self.ids)

    def fetch(self, indices, rng):
        ids = self.ids[indices]
        batch = {"index": indices, "input_ids": ids, "labels": ids.clone()}
        if self.mask is not None:
            batch["attention_mask"] = self.mask[indices]
            batch["labels"] = ids.masked_fill(self.mask[indices] == 0, -100)
        return batch


def texts(count: int = 150, seed: int = 0) -> Texts:
    return Texts(torch.randint(VOCABULARY, (count, TOKENS), generator=torch.Generator().manual_seed(seed)))


def context(source, seed: int = 0, task: str = "language", **networks) -> Context:
    arms = {name: Arm(name, Model(network, TokenView())) for name, network in networks.items()}
    data = Data(source, source, source, Facts(task, (TOKENS,), VOCABULARY))
    return Context(data, source, arms, seed, "cpu")


def llama(seed: int, vocabulary: int = VOCABULARY) -> nn.Module:
    torch.manual_seed(seed)
    return Llama(width=16, layers=1, heads=2).build(Facts("language", (TOKENS,), vocabulary))


P = torch.tensor([0.3, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05])
Q = torch.tensor([0.02, 0.03, 0.05, 0.1, 0.1, 0.1, 0.1, 0.2, 0.3])


def test_perplexity_of_a_uniform_model_is_the_vocabulary():
    found = context(texts(), student=Unigram(torch.full((VOCABULARY,), 1 / VOCABULARY)))
    findings = Perplexity().build(found.arms["student"], found)
    assert findings.metrics["perplexity"] == pytest.approx(VOCABULARY, rel=1e-5)
    assert findings.metrics["text_nll"] == pytest.approx(math.log(VOCABULARY), rel=1e-5)
    assert len(findings.per_example["text_nll"]) == 150


def test_perplexity_counts_every_token_once_and_padding_never():
    source = texts(70)
    source.mask = (torch.arange(TOKENS) < torch.arange(2, 72).clamp(max=TOKENS)[:, None]).long()
    network = llama(0)
    found = context(source, student=network)
    metrics = Perplexity().build(found.arms["student"], found).metrics
    values = []
    for ids, mask in zip(source.ids, source.mask, strict=True):
        with torch.no_grad():
            log_p = network(input_ids=ids[None]).logits[0].double().log_softmax(-1)
        values += [-log_p[t - 1, ids[t]].item() for t in range(1, int(mask.sum()))]
    assert metrics["perplexity"] == pytest.approx(math.exp(sum(values) / len(values)), rel=1e-5)
    source.ids = source.ids.masked_fill(source.mask == 0, 5)
    assert Perplexity().build(found.arms["student"], found).metrics["perplexity"] == pytest.approx(
        metrics["perplexity"]
    )


def test_judgement_of_unigrams_is_known():
    """own = -H(q), the teacher's = -H(q, p), gap = KL(q || p): within 4 standard errors."""
    found = context(texts(), teacher=Unigram(P), student=Unigram(Q))
    kind = TeacherJudged(prompt=3, rollout=20, samples=2)
    findings = kind.build(found.arms["student"], found)
    assert {name: len(values) for name, values in findings.per_example.items()} == {
        "teacher_log_likelihood": 300,
        "own_log_likelihood": 300,
        "gap": 300,
    }
    expected = {
        "teacher_log_likelihood": (Q * P.log()).sum().item(),
        "own_log_likelihood": (Q * Q.log()).sum().item(),
        "gap": (Q * (Q / P).log()).sum().item(),
    }
    for name, value in expected.items():
        spread = torch.tensor(findings.per_example[name]).std().item() / 300**0.5
        assert 0 < spread < 0.1
        assert findings.metrics[name] == pytest.approx(value, abs=4 * spread)
        assert findings.metrics[name] == pytest.approx(sum(findings.per_example[name]) / 300)


def test_the_teachers_own_gap_is_zero():
    found = context(texts(), teacher=llama(0))
    metrics = TeacherJudged(prompt=3, rollout=6).build(found.arms["teacher"], found).metrics
    assert metrics["gap"] == 0
    assert metrics["teacher_log_likelihood"] < -0.5


def test_prompts_and_padding_are_not_judged():
    """A teacher that ends at once: of each sample only the end token is scored, given the whole prompt."""
    student, teacher = llama(1), llama(2)
    student.generation_config.eos_token_id = list(range(VOCABULARY))
    found = context(texts(40), teacher=teacher, student=student)
    findings = TeacherJudged(prompt=4, rollout=5).build(found.arms["student"], found)
    with torch.no_grad():
        log_p = teacher(input_ids=found.source.ids[:, :4]).logits[:, -1].log_softmax(-1)
    for value, known in zip(findings.per_example["teacher_log_likelihood"], log_p, strict=True):
        assert (known - value).abs().min() < 1e-5


def test_samples_depend_on_the_runs_seed_alone():
    def judged(seed):
        found = context(texts(), seed, teacher=llama(0), student=llama(1))
        torch.rand(seed + 3)
        return TeacherJudged(prompt=3, rollout=6).build(found.arms["student"], found).per_example["gap"]

    assert judged(4) == judged(4)
    assert judged(4) != judged(5)


def test_samples_are_shown_as_text():
    found = context(texts(), teacher=llama(0), student=llama(1))
    assert TeacherJudged(prompt=3, rollout=6).build(found.arms["student"], found).figures == []
    found.data.facts.__dict__["tokenizer"] = SimpleNamespace(decode=lambda ids: " ".join(map(str, ids)))
    (figure,) = TeacherJudged(prompt=3, rollout=6, shown=2).build(found.arms["student"], found).figures
    assert figure["kind"] == "text"
    begun = [" ".join(map(str, ids)) for ids in found.source.ids[:2, :3].tolist()]
    parts = [sample.split(PARTED) for sample in figure["samples"]]
    assert [prompt for prompt, _ in parts] == begun
    assert all(len(text.split()) == 6 for _, text in parts)


def test_what_cannot_be_measured_is_told():
    found = context(texts(), student=llama(1))
    with pytest.raises(StillhouseError, match="needs a teacher"):
        TeacherJudged(prompt=3).build(found.arms["student"], found)
    found = context(texts(), teacher=llama(0, vocabulary=4), student=llama(1))
    with pytest.raises(StillhouseError, match="different vocabularies"):
        TeacherJudged(prompt=3).build(found.arms["student"], found)
    found = context(texts(), task="classification", teacher=llama(0), student=llama(1))
    for kind in (TeacherJudged(), Perplexity()):
        with pytest.raises(StillhouseError, match="for language models"):
            kind.build(found.arms["student"], found)
