"""Mutual learning: whose answers count when, who changes, and what the balanced divergences are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from stillhouse.engine.contracts import Batch, Facts, Loss
from stillhouse.errors import StillhouseError
from stillhouse.methods.online_kinds import Mutual
from stillhouse.methods.roles import Roles
from stillhouse.networks.kinds import MLP, Llama
from stillhouse.objectives.gate_kinds import EntropyGap
from stillhouse.objectives.kinds import KL, MSE, CrossEntropy, ReverseKL
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model
from stillhouse.views.tokens import TokenView

FACTS = Facts("classification", (1, 4, 4), 5)
TERMS = [CrossEntropy(), KL(weight=0.5)]


def batch(size: int = 12, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 1, 4, 4, generator=rng)
    return {"image": images, "labels": torch.randint(5, (size,), generator=rng), "index": torch.arange(size)}


def mutual(**options):
    torch.manual_seed(3)
    student = Model(MLP(hidden=[8]).build(FACTS), ImageView(Image()))
    kind = Mutual(**({"peers": [MLP(hidden=[16])], "terms": TERMS} | options))
    return kind.build(Roles(student, None, FACTS, batch(4)))


def value(loss: Loss) -> torch.Tensor:
    return loss.weight * loss.values.mean()


def step(method, given: Batch, rate: float = 0.5) -> None:
    """What the engine does with a schedule, with plain gradient descent."""
    for turn in method.schedule():
        own = method.players()[turn.player].parameters()
        losses = turn.losses(given, torch.Generator())
        total = torch.stack([value(loss) for loss in losses.values()]).sum()
        found = torch.autograd.grad(total, own)
        with torch.no_grad():
            for parameter, gradient in zip(own, found, strict=True):
                parameter -= rate * gradient


def plain_step(own, others, given: Batch, rate: float = 0.5) -> None:
    """The same for one network, from the paper's equations, in probabilities."""
    logits = own(given["image"])
    targets = [other(given["image"]).softmax(-1).detach() for other in others]
    divergences = [(p * (p.log() - logits.log_softmax(-1))).sum(-1).mean() for p in targets]
    total = functional.cross_entropy(logits, given["labels"]) + 0.5 * sum(divergences) / len(others)
    found = torch.autograd.grad(total, list(own.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(own.parameters(), found, strict=True):
            parameter -= rate * gradient


@pytest.mark.parametrize("widths", [[16], [16, 6]])
def test_a_step_is_that_of_the_algorithm(widths):
    """One network after the other, a later one against the earlier ones as they are by then."""
    method = mutual(peers=[MLP(hidden=[width]) for width in widths])
    networks = [copy.deepcopy(player.module.network) for player in method.players().values()]
    step(method, batch())
    for own in networks:
        plain_step(own, [other for other in networks if other is not own], batch())
    for own, player in zip(networks, method.players().values(), strict=True):
        for expected, found in zip(own.parameters(), player.module.network.parameters(), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_no_gradient_reaches_the_others():
    method = mutual()
    losses = method.update("student", batch(), torch.Generator())
    torch.stack([value(loss) for loss in losses.values()]).sum().backward()
    assert all(p.grad is not None for p in method.players()["student"].parameters())
    assert all(p.grad is None for p in method.players()["peer"].parameters())


def test_a_peer_has_terms_of_its_own():
    method = mutual(peer_terms=[CrossEntropy()])
    assert list(method.update("student", batch(), torch.Generator())) == ["labels/cross_entropy", "logits/kl"]
    alone = method.update("peer", batch(), torch.Generator())
    assert list(alone) == ["peer/labels/cross_entropy"]


def test_turns_share_a_batch():
    turns = list(mutual(peers=[MLP(), MLP()]).schedule())
    assert [turn.player for turn in turns] == ["student", "peer", "peer_2"]
    assert [turn.fresh for turn in turns] == [True, False, False]


def test_it_learns_and_the_networks_come_to_agree():
    given, agreed = batch(), []
    for weight in (0.0, 1.0):
        method = mutual(terms=[CrossEntropy(), KL(weight=weight)])
        for _ in range(60):
            step(method, given)
        logits = [player.module.network(given["image"]) for player in method.players().values()]
        assert all((own.argmax(-1) == given["labels"]).float().mean() > 0.8 for own in logits)
        ours, theirs = (own.log_softmax(-1) for own in logits)
        agreed.append(functional.kl_div(ours, theirs, log_target=True, reduction="batchmean").item())
    assert agreed[1] < 0.5 * agreed[0]


def test_language_models_learn_from_each_other():
    facts = Facts("language", (9,), 23)
    torch.manual_seed(0)
    student = Model(Llama(width=16, layers=1, heads=2).build(facts), TokenView())
    ids = torch.randint(23, (3, 9))
    given = {"input_ids": ids, "labels": ids.clone()}
    given["labels"][:, :3] = -100
    method = Mutual(peers=[Llama(width=32, layers=1, heads=2)], terms=TERMS).build(Roles(student, None, facts, given))
    losses = method.update("peer", given, torch.Generator())
    assert losses["peer/logits/kl"].values.shape == (3, 8)
    where = losses["peer/logits/kl"].where
    assert where is not None
    assert where.sum() == 3 * 6


def test_misfits_are_told():
    with pytest.raises(StillhouseError, match="nothing to train"):
        mutual(terms=[MSE(signal="features.layers.0", project="linear")])
    with pytest.raises(StillhouseError, match="shape"):
        mutual(terms=[MSE(signal="features.layers.0")])


def test_without_a_teacher_the_labels_are_left():
    kind = Mutual(peers=[MLP()], terms=[CrossEntropy(weight=0.3, label_smoothing=0.1), KL()])
    assert kind.without_teacher().terms == [CrossEntropy(weight=1.0, label_smoothing=0.1)]


# --- the gate of balanced divergences -----------------------------------------------------------


def test_the_entropy_gap_is_that_of_the_two_answers():
    """By hand: a sure and an unsure answer, both ways round."""
    sure, unsure = torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.5]])
    student, teacher = torch.cat([sure, unsure]), torch.cat([unsure, sure])
    gate = EntropyGap(teacher_higher=2.0, student_higher=0.5)
    weights = gate.target()(student, teacher, **gate.options)
    assert weights.tolist() == [2.0, 0.5]


def test_balanced_divergences_in_a_term():
    """Each image's forward and reverse KL, weighed by which side is the less certain, in float64 probabilities."""
    terms = [
        KL(gate=EntropyGap(teacher_higher=2, student_higher=1)),
        ReverseKL(gate=EntropyGap(teacher_higher=1, student_higher=2)),
    ]
    method, given = mutual(terms=terms), batch()
    losses = method.update("student", given, torch.Generator())
    q, p = (player.module.network(given["image"]).double().softmax(-1) for player in method.players().values())
    higher = -(p * p.log()).sum(-1) > -(q * q.log()).sum(-1)
    assert 0 < higher.sum() < len(higher)  # both branches are seen
    forward, reverse = (p * (p / q).log()).sum(-1), (q * (q / p).log()).sum(-1)
    for name, expected in (
        ("kl", torch.where(higher, 2.0, 1.0) * forward),
        ("reverse_kl", torch.where(higher, 1.0, 2.0) * reverse),
    ):
        torch.testing.assert_close(losses[f"logits/{name}"].values.double(), expected, atol=1e-6, rtol=1e-5)
