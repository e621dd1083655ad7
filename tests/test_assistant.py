"""The teacher's assistant: what a candidate keeps, what the candidates are trained on, and which one is chosen."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from stillhouse.engine.contracts import Facts
from stillhouse.engine.ledger import Ledger
from stillhouse.errors import StillhouseError
from stillhouse.methods.online_kinds import Assistant
from stillhouse.methods.roles import Roles
from stillhouse.networks.kinds import MLP, Slimmable
from stillhouse.objectives.kinds import KL, MSE, CrossEntropy
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

FACTS = Facts("classification", (1, 3, 3), 4)
SHARES = [0.25, 0.5, 0.75]


def network(seed: int = 0):
    torch.manual_seed(seed)
    return Slimmable(hidden=[8, 12]).build(FACTS)


def images(seed: int = 1) -> torch.Tensor:
    return torch.randn(10, 1, 3, 3, generator=torch.Generator().manual_seed(seed))


def batch() -> dict[str, torch.Tensor]:
    return {"image": images(), "labels": torch.arange(10) % 4}


def assistant(**options):
    teacher = Model(network(), ImageView(Image()))
    student = Model(copy.deepcopy(teacher.network), ImageView(Image()))
    kind = Assistant(**({"shares": SHARES, "terms": [KL()]} | options))
    return kind.build(Roles(student, Frozen(teacher), FACTS, batch()))


def test_a_share_keeps_the_first_units():
    net, x = network(), images()
    first, second, last = ((layer.weight, layer.bias) for layer in net.layers)
    hidden = (x.flatten(1) @ first[0][:4].T + first[1][:4]).relu()
    hidden = (hidden @ second[0][:6, :4].T + second[1][:6]).relu()
    torch.testing.assert_close(net.at(x, 0.5), hidden @ last[0][:, :6].T + last[1])
    net.share.fill_(0.5)
    assert torch.equal(net(x), net.at(x, 0.5))
    assert net.size(0.5) == 10 * 4 + 5 * 6 + 7 * 4
    assert net.size(1.0) == sum(p.numel() for p in net.parameters())


def test_ordering_keeps_the_answers_and_puts_what_matters_first():
    net, x = network(), images()
    with torch.no_grad():
        net.layers[0].weight[:4] = 0  # these four say nothing of the input
        net.layers[0].bias[:4] = 0
    before = net(x)
    assert (net.at(x, 0.5) - before).abs().max() > 1e-2
    net.order()
    torch.testing.assert_close(net(x), before)
    first = functional.linear(x.flatten(1), net.layers[0].weight, net.layers[0].bias)
    assert first[:, 4:].abs().max() == 0
    assert (first[:, :4].abs().amax(0) > 0).all()


def test_candidates_share_their_weights_and_learn_the_teacher():
    method, given = assistant(), batch()
    optimizer = torch.optim.Adam(method.student.parameters(), lr=0.01)
    sums = []
    for _ in range(150):
        losses = method.update_student(given, torch.Generator())
        assert set(losses) == {f"logits/kl/{share:g}" for share in SHARES}
        total = torch.stack([loss.values.mean() for loss in losses.values()]).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        sums.append(total.item())
    assert sums[-1] < 0.2 * sums[0]


def test_the_chosen_one_loses_least_for_what_it_saves():
    method = assistant()
    sizes = {share: method.network.size(share) for share in (*SHARES, 1.0)}
    method.lost = {0.25: 1.0, 0.5: 0.2, 0.75: 0.19, 1.0: 0.1}
    assert (0.2 - 0.1) / (sizes[1.0] - sizes[0.5]) < (0.19 - 0.1) / (sizes[1.0] - sizes[0.75])
    assert method.chosen() == 0.5
    method.lost = {0.25: 0.1, 0.5: 0.1, 0.75: 0.1, 1.0: 0.1}
    assert method.chosen() == 0.25  # the smaller one among equals
    state = method.state_dict()
    other = assistant()
    other.load_state_dict(state)
    assert other.chosen() == 0.25


def test_what_it_judges_by():
    """The teacher's own terms count, so that labels it misses are not held against a candidate."""
    method, given = assistant(terms=[CrossEntropy(weight=0.5), KL()], memory=0.0), batch()
    method.update_student(given, torch.Generator())
    answer = method.teacher.network(given["image"])
    assert method.lost[1.0] == pytest.approx(0.5 * functional.cross_entropy(answer, given["labels"]).item())
    own = method.network.at(given["image"], 0.5)
    kl = functional.kl_div(own.log_softmax(-1), answer.log_softmax(-1), log_target=True, reduction="batchmean")
    expected = kl + 0.5 * functional.cross_entropy(own, given["labels"])
    assert method.lost[0.5] == pytest.approx(expected.item(), rel=1e-5)
    assert method.network.share.item() == pytest.approx(method.chosen())
    assert method.told() == {"assistant_share": pytest.approx(method.chosen())}


def test_every_candidate_is_counted():
    method, given, ledger = assistant(), batch(), Ledger()
    with ledger.watching({"student": method.student.module, "teacher": method.teacher}):
        method.update_student(given, torch.Generator())
    assert {role: row["forwards"] for role, row in ledger.roles.items()} == {"student": len(SHARES), "teacher": 1}


def test_misfits_are_told():
    plain = Model(MLP(hidden=[4]).build(FACTS), ImageView(Image()))
    with pytest.raises(StillhouseError, match="slimmable"):
        Assistant(shares=SHARES, terms=[KL()]).build(Roles(plain, Frozen(plain), FACTS, batch()))
    with pytest.raises(StillhouseError, match="logits and labels"):
        assistant(terms=[MSE(signal="features.layers.0")])
