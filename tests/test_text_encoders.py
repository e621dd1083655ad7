"""Text encoders: masked tokens, labelled paragraphs, networks, and layers taken from a deeper one."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from stillhouse.engine.checkpoint import read_summed
from stillhouse.engine.contracts import Data, Facts
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.encoder_kinds import MaskedTokens, Ranking, Similarity
from stillhouse.evaluation.encoders import embeddings
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.networks.encoder_kinds import Bert, HFEncoder, LayersOf, StaticEmbedding
from stillhouse.networks.weights import layers_of
from stillhouse.recipe.builder import Builder
from stillhouse.recipe.check import check
from stillhouse.recipe.execute import distill
from stillhouse.recipe.plan import planned
from stillhouse.recipe.text import load
from stillhouse.sources.docstrings import TOPICS, Paragraphs
from stillhouse.sources.encoder_kinds import Docstrings, Masked
from stillhouse.sources.kinds import Text
from stillhouse.sources.masked import IGNORED, MaskedText
from stillhouse.sources.text import trained_tokenizer
from stillhouse.students.export import export
from stillhouse.students.load import load_student
from stillhouse.students.save import save_student
from stillhouse.views.encoder import EncoderView, SentenceView
from stillhouse.views.kinds import Sentence
from stillhouse.views.model import Model

FACTS = Facts("masked-language", (12,), 40)


class Tokenizer:
    """Ids 0 (special) and 1 (the mask) of 50."""

    mask_token_id = 1
    all_special_ids = (0, 1)

    def __len__(self) -> int:
        return 50

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(50)}


@pytest.fixture(scope="module")
def paragraphs() -> Data:
    return Docstrings(block=24, vocabulary=400, mask=True).build()


def text(count: int = 400, length: int = 30) -> Paragraphs:
    """Tokens 2 to 49 after a special one; the last three positions are padding."""
    ids = torch.randint(2, 50, (count, length), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = 0
    mask = torch.ones_like(ids)
    mask[:, -3:] = 0
    return Paragraphs(ids, mask, torch.arange(count) % 10)


def test_masks_hide_eight_in_ten_and_spare_special_tokens_and_padding():
    whole = text()
    source = MaskedText(whole, 0.3, Tokenizer())
    batch = source.fetch(torch.arange(400), torch.Generator().manual_seed(2))
    chosen = batch["labels"] != IGNORED
    assert not chosen[:, 0].any()
    assert not chosen[:, -3:].any()
    assert chosen[:, 1:-3].float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(batch["labels"][chosen], whole.ids[chosen])
    assert torch.equal(batch["input_ids"][~chosen], whole.ids[~chosen])
    seen, truth = batch["input_ids"][chosen], whole.ids[chosen]
    assert (seen == 1).float().mean().item() == pytest.approx(0.8 + 0.1 / 50, abs=0.03)
    assert (seen == truth).float().mean().item() == pytest.approx(0.1 + 0.1 / 50, abs=0.02)


def test_masks_change_with_the_generator_alone():
    source = MaskedText(text(), 0.3, Tokenizer())
    fixed = source.fetch(torch.tensor([5, 9]), None)["input_ids"]
    assert torch.equal(source.fetch(torch.tensor([9, 3, 5]), None)["input_ids"][[2, 0]], fixed)
    one, two, again = (
        source.fetch(torch.tensor([5, 9]), torch.Generator().manual_seed(seed))["input_ids"] for seed in (3, 4, 3)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    assert source.augments


def test_text_without_a_mask_token_is_refused(tmp_path):
    path = tmp_path / "kettle.txt"
    path.write_text("\n\n".join(f"{n}: copper kettle and cask of oak." for n in range(400)))
    with pytest.raises(StillhouseError, match="mask: true"):
        Masked(of=Text(path=str(path), block=16, vocabulary=300)).build()
    data = Masked(of=Text(path=str(path), block=16, vocabulary=300, mask=True)).build()
    assert data.facts.task == "masked-language"
    assert data.facts.classes == 300 == len(data.facts.tokenizer)
    assert (data.test.fetch(torch.arange(4), None)["input_ids"] == data.facts.tokenizer.mask_token_id).any()


def test_paragraphs_are_labelled_and_in_one_split(paragraphs):
    assert paragraphs.facts.names == tuple(TOPICS)
    assert len(paragraphs.train) > 3000
    decode = paragraphs.facts.tokenizer.decode
    seen = [
        {decode(row[mask.bool()].tolist()) for row, mask in zip(split.ids, split.mask, strict=True)}
        for split in (paragraphs.train, paragraphs.validation, paragraphs.test)
    ]
    long = [{words for words in texts if len(words) > 60} for texts in seen]
    assert not long[0] & long[2]
    assert not long[0] & long[1]
    for split in (paragraphs.train, paragraphs.validation, paragraphs.test):
        assert len(split.labels.unique()) == len(TOPICS)
        first = split.ids[:, 0]
        assert (first == paragraphs.facts.tokenizer.eos_token_id).all()
        assert torch.equal(split.mask, split.mask.sort(1, descending=True).values)
    numbers = [decode(row.tolist()) for row in paragraphs.train.ids[paragraphs.train.labels == 0]]
    assert sum("ecimal" in words for words in numbers) > 20


def test_a_limit_leaves_the_other_splits_alone(paragraphs):
    few = Docstrings(block=24, vocabulary=400, mask=True, limit=100).build()
    assert len(few.train) == 100
    assert len(few.train.labels.unique()) == len(TOPICS)
    assert few.test.fingerprint == paragraphs.test.fingerprint
    assert few.facts.tokenizer.get_vocab() == paragraphs.facts.tokenizer.get_vocab()


def test_another_texts_vocabulary_can_be_read(tmp_path, paragraphs):
    path = tmp_path / "kettle.txt"
    path.write_text("\n\n".join(f"{n}: copper kettle and cask of oak." for n in range(400)))
    other = Text(path=str(path), block=16, vocabulary=300, mask=True)
    data = Docstrings(block=24, read_as=other).build()
    assert data.facts.tokenizer.get_vocab() == other.build().facts.tokenizer.get_vocab()
    assert torch.equal(data.train.labels, paragraphs.train.labels)


@pytest.mark.parametrize(
    ("head", "shape"), [("masked-lm", (3, 12, 40)), ("classifier", (3, 40)), ("tokens", (3, 12, 40))]
)
def test_heads_answer_what_they_are_for(head: Any, shape: tuple[int, ...]):
    model = Model(Bert(width=16, layers=1, heads=2, head=head).build(FACTS), EncoderView())
    batch = {"input_ids": torch.randint(40, (3, 12)), "attention_mask": torch.ones(3, 12, dtype=torch.long)}
    assert model.signals(batch)["logits"].shape == shape


def test_the_class_head_has_the_datas_classes_and_the_vocabulary_is_its_tokenizers():
    network = Bert(width=16, layers=1, heads=2).build(Facts("classification", (12,), 7, tokenizer=Tokenizer()))
    assert network.config.num_labels == 7
    assert network.get_input_embeddings().num_embeddings == 50
    with pytest.raises(StillhouseError, match="reads text"):
        Bert().build(Facts("classification", (1, 8, 8), 10))


def test_logits_do_not_shift_and_padding_changes_nothing():
    model = Model(Bert(width=16, layers=2, heads=2, head="masked-lm").build(FACTS), EncoderView()).eval()
    ids, mask = torch.randint(40, (2, 12)), torch.ones(2, 12, dtype=torch.long)
    mask[:, 8:] = 0
    other = ids.clone()
    other[:, 8:] = 3
    one, two = (model.signals({"input_ids": x, "attention_mask": mask})["logits"][:, :8] for x in (ids, other))
    torch.testing.assert_close(one, two)
    labels = torch.full((2, 12), IGNORED)
    labels[0, 3] = 5
    kept, where = model.view.targets({"input_ids": ids, "labels": labels})
    assert torch.equal(kept, labels)
    assert where is not None
    assert where.nonzero().tolist() == [[0, 3]]


def test_a_sentence_is_the_mean_of_its_tokens():
    network = StaticEmbedding(width=6).build(FACTS)
    ids, mask = torch.tensor([[3, 4, 9, 9]]), torch.tensor([[1, 1, 0, 0]])
    found = Model(network, SentenceView()).signals({"input_ids": ids, "attention_mask": mask}, ["embedding"])
    mean = network.embeddings["word_embeddings"].weight[3:5].mean(0)
    torch.testing.assert_close(found["embedding"][0], mean / mean.norm())


def test_a_class_is_told_from_the_mean_of_what_is_no_padding():
    torch.manual_seed(0)
    facts = Facts("classification", (12,), 7, tokenizer=Tokenizer())
    network = Bert(width=16, layers=2, heads=2, pool="mean").build(facts).eval()
    ids, mask = torch.randint(2, 50, (3, 12)), torch.ones(3, 12, dtype=torch.long)
    mask[0, 5:], mask[1, 9:] = 0, 0
    found = Model(network, EncoderView()).signals({"input_ids": ids, "attention_mask": mask})["logits"]
    weight, bias = network.classifier.weight.double(), network.classifier.bias.double()
    for row, length in enumerate((5, 9, 12)):  # each text by itself, cut off where its padding begins
        states = network.bert(ids[row : row + 1, :length]).last_hidden_state[0].double()
        torch.testing.assert_close(found[row].double(), weight @ (sum(states) / length) + bias, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="head 'classifier'"):
        Bert(head="masked-lm", pool="mean")


def test_a_mean_pooled_student_is_loaded_and_exported(tmp_path):
    torch.manual_seed(0)
    tokenizer = trained_tokenizer(["low wine and high wine " * 40], 300)
    kind = Bert(width=16, layers=1, heads=2, pool="mean")
    facts = Facts("classification", (12,), 10, tokenizer=tokenizer)
    network = kind.build(facts).eval()
    save_student(network, kind, facts, tmp_path / "student", view=None, sampler=None)
    batch = dict(tokenizer("high wine", return_tensors="pt"))
    logits = load_student(tmp_path).signals(batch)["logits"]
    assert torch.equal(logits, network(batch["input_ids"], batch["attention_mask"]))
    written = export(tmp_path, "safetensors", tmp_path / "out")
    assert "student.signals(tokenizer(text," in (written / "README.md").read_text()


def deep_and_shallow(head: Any = "masked-lm") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)
    deep = Bert(width=16, layers=4, heads=2, head="masked-lm").build(FACTS)
    return dict(deep.state_dict()), dict(Bert(width=16, layers=2, heads=2, head=head).build(FACTS).state_dict())


def test_alternate_layers_are_taken_in_order():
    deep, shallow = deep_and_shallow()
    state = layers_of(LayersOf(layers=[1, 3]), deep, shallow)
    assert state.keys() == shallow.keys()
    for name in state:
        source = name.replace("layer.1.", "layer.3.").replace("layer.0.", "layer.1.")
        assert torch.equal(state[name], deep[source]), name


def test_a_static_model_starts_from_a_berts_vectors():
    bert = dict(Bert(width=16, layers=2, heads=2, head="none").build(FACTS).state_dict())
    static = dict(StaticEmbedding(width=16).build(FACTS).state_dict())
    (name,) = static
    assert torch.equal(layers_of(LayersOf(layers=[]), bert, static)[name], bert[name])


def test_a_new_head_keeps_its_own_start():
    deep, shallow = deep_and_shallow("classifier")
    state = layers_of(LayersOf(layers=[0, 2]), deep, shallow)
    assert torch.equal(state["classifier.weight"], shallow["classifier.weight"])
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(state[name], deep[name])
    assert "cls.predictions.bias" not in state


@pytest.mark.parametrize("kind", [LayersOf(layers=[1, 4]), LayersOf(layers=[1]), LayersOf(), LayersOf(stack="block")])
def test_layers_that_do_not_fit_are_told(kind):
    with pytest.raises(StillhouseError, match="layers-of"):
        layers_of(kind, *deep_and_shallow())


def test_a_folder_gives_its_encoder_and_fewer_layers(tmp_path):
    torch.manual_seed(0)
    network = Bert(width=16, layers=3, heads=2, head="masked-lm").build(FACTS)
    network.save_pretrained(tmp_path)
    loaded = HFEncoder(path=str(tmp_path), head="masked-lm").build(FACTS)
    ids = torch.randint(40, (2, 9))
    assert torch.equal(loaded(input_ids=ids).logits, network.eval()(input_ids=ids).logits)
    short = HFEncoder(path=str(tmp_path), head="none", layers=2).build(FACTS)
    assert len(short.encoder.layer) == 2
    classifier = HFEncoder(path=str(tmp_path)).build(Facts("masked-language", (12,), 7))
    assert classifier.config.num_labels == 7
    with pytest.raises(StillhouseError, match="3 layers, not 5"):
        HFEncoder(path=str(tmp_path), layers=5).build(FACTS)


def test_a_package_that_is_missing_is_named():
    with pytest.raises(StillhouseError, match="pip install no-such-package"):
        HFEncoder(path="package:no_such_package/model").build(FACTS)


PRETRAINED = """
name: pretrained
data: &texts {kind: docstrings, block: 12, vocabulary: 300, mask: true, limit: 40}
stages:
  - name: read
    data: {kind: masked, of: *texts}
    student: {network: {kind: bert, head: masked-lm, width: 16, layers: 2, heads: 2}}
    method: {kind: match, terms: [{signal: labels, by: cross_entropy}]}
    train: {steps: 2, batch_size: 4}
teacher:
  network: {kind: bert, width: 16, layers: 2, heads: 2}
  weights: {kind: layers-of, of: {kind: stage, stage: read}}
student: {network: {kind: bert, width: 16, layers: 1, heads: 2}, weights: {kind: layers-of, layers: [1]}}
method: {kind: match, terms: [{signal: logits, by: kl}]}
train: {steps: 1, batch_size: 4, optimizer: {kind: sgd, lr: 1.0e-9}}
evaluate: [accuracy]
control: false
arms: {start: {of: start}}
"""


def test_a_reader_becomes_a_teacher_and_its_layer_a_student(tmp_path):
    path = tmp_path / "pretrained.yaml"
    path.write_text(PRETRAINED)
    recipe = load(path)
    run = distill(recipe, out=tmp_path / "run", progress=False)
    assert run.summary["arms"].keys() == {"teacher", "student", "start"}
    builder = Builder(recipe)
    stages = {stage.name: stage for stage in planned(recipe)}
    builder.handed = {name: read_summed(tmp_path / "run" / "stages", name)["network"] for name in stages}  # type: ignore[index]
    arms = builder.arms(list(stages.values()))
    read = builder.handed["read"]
    names = [f"bert.encoder.layer.{number}.attention.self.query.weight" for number in (0, 1)]
    teacher, start = (dict(arms[name].model.network.state_dict()) for name in ("teacher", "start"))
    assert all(torch.equal(teacher[name], read[name]) for name in names)
    assert torch.equal(start[names[0]], read[names[1]])
    assert torch.equal(start["classifier.weight"], teacher["classifier.weight"])
    student = dict(arms["student"].model.network.state_dict())
    torch.testing.assert_close(student[names[0]], start[names[0]])


def test_a_static_student_is_loaded_with_its_tokenizer(tmp_path):
    tokenizer = trained_tokenizer(["low wine and high wine " * 40], 300)
    kind, facts = StaticEmbedding(width=6), Facts("classification", (12,), 10, tokenizer=tokenizer)
    network = kind.build(facts)
    save_student(network, kind, facts, tmp_path / "student", view=Sentence(), sampler=None)
    student = load_student(tmp_path)
    batch = dict(tokenizer("high wine", return_tensors="pt"))
    expected = Model(network, SentenceView()).signals(batch, ["embedding"])["embedding"]
    assert torch.equal(student.signals(batch, ["embedding"])["embedding"], expected)
    written = export(tmp_path, "safetensors", tmp_path / "out")
    assert "tokenizer beside it" in (written / "README.md").read_text()
    assert (written / "tokenizer.json").is_file()


def test_masked_text_split_otherwise_than_the_tested_is_refused(tmp_path):
    path = tmp_path / "leak.yaml"
    path.write_text(
        PRETRAINED.replace("of: *texts", "of: {kind: docstrings, block: 12, vocabulary: 300, mask: true, test: 0.1}")
    )
    report = check(load(path))
    assert any("split otherwise" in finding.told for finding in report.findings if finding.level == "error")


def context(source, **models: Model) -> Context:
    data = Data(source, source, source, FACTS)
    return Context(data, source, {name: Arm(name, model) for name, model in models.items()}, 0, "cpu")


def test_masked_tokens_are_scored_where_they_are_masked():
    source = MaskedText(text(), 0.3, Tokenizer())
    facts = Facts("masked-language", (30,), 50)
    model = Model(Bert(width=16, layers=1, heads=2, head="masked-lm").build(facts), EncoderView()).eval()
    found = MaskedTokens().build(Arm("student", model), context(source, student=model)).metrics
    batch = source.fetch(torch.arange(400), None)
    where = batch["labels"] != IGNORED
    with torch.no_grad():
        probabilities = model.signals(batch)["logits"].double().softmax(-1)[where]
    truth = batch["labels"][where]
    assert found["masked_accuracy"] == pytest.approx((probabilities.argmax(-1) == truth).double().mean().item())
    nll = -probabilities[torch.arange(len(truth)), truth].log().mean()
    assert found["masked_perplexity"] == pytest.approx(nll.exp().item(), rel=1e-5)


def turned_and_other() -> Context:
    """A teacher of sentences, one whose space is turned and stretched, and one that knows nothing of them."""
    facts = Facts("language", (30,), 50)
    known, turning, unknown = (StaticEmbedding(width=8).build(facts) for _ in range(3))
    own, other = (network.embeddings["word_embeddings"].weight.data for network in (known, turning))
    other.copy_(own @ torch.linalg.qr(torch.randn(8, 8)).Q * 3)
    teacher, turned, other = (Model(network, SentenceView()) for network in (known, turning, unknown))
    return context(text(), teacher=teacher, turned=turned, other=other)


def test_similarity_is_one_where_all_angles_are_kept():
    arms = turned_and_other()

    def measured(name: str) -> dict[str, float]:
        return Similarity(pairs=500).build(arms.arms[name], arms).metrics

    assert measured("turned")["similarity_spearman"] == pytest.approx(1.0, abs=1e-6)
    assert abs(measured("other")["similarity_spearman"]) < 0.9
    assert measured("teacher") == {}


def test_rankings_are_those_of_scikit_learn():
    arms = turned_and_other()
    found = {name: Ranking(nearest=7).build(arms.arms[name], arms).metrics for name in arms.arms}
    assert found["turned"]["neighbours_kept"] == pytest.approx(1.0)
    assert found["turned"]["ndcg"] == pytest.approx(1.0)
    vectors = {name: embeddings(arms.arms[name], arms).numpy() for name in ("teacher", "other")}
    near = {
        name: NearestNeighbors(n_neighbors=8).fit(x).kneighbors(x, return_distance=False)[:, 1:]
        for name, x in vectors.items()
    }
    kept = [len(set(ours) & set(theirs)) / 7 for ours, theirs in zip(near["other"], near["teacher"], strict=True)]
    labels = np.arange(400) % 10
    of_class = (labels[near["other"]] == labels[:, None]).mean()
    assert found["other"]["neighbours_kept"] == pytest.approx(np.mean(kept))
    assert found["other"]["neighbours_of_class"] == pytest.approx(of_class)
    away = ~np.eye(400, dtype=bool)  # a text does not rank itself
    truth, scores = ((x @ x.T)[away].reshape(400, 399) for x in (vectors["teacher"], vectors["other"]))
    assert found["other"]["ndcg"] == pytest.approx(ndcg_score(truth.clip(0), scores, k=7, ignore_ties=True))
    assert found["teacher"].keys() == {"neighbours_of_class"}


def test_more_texts_than_there_are_cannot_be_ranked():
    arms = turned_and_other()
    with pytest.raises(StillhouseError, match="the split has 400 texts"):
        Ranking(nearest=400).build(arms.arms["other"], arms)
