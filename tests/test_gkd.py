"""Generalised knowledge distillation: what the student writes, what is trained on, and against what."""

import copy

import pytest
import torch
from torch import nn

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.methods.kinds import GKD, Match
from stillhouse.methods.roles import Roles
from stillhouse.networks.kinds import Llama
from stillhouse.objectives.kinds import KL, CrossEntropy, GeneralisedJSD, ReverseKL
from stillhouse.sources.rollouts import end_tokens, prompts, rollouts
from stillhouse.teachers.frozen import Frozen
from stillhouse.views.model import Model
from stillhouse.views.tokens import TokenView

VOCABULARY, BATCH, TOKENS, PROMPT, ROLLOUT = 23, 6, 12, 4, 7
FACTS = Facts("language", (TOKENS,), VOCABULARY)


def language_model(seed: int, *, vocabulary: int = VOCABULARY, sharp: float = 1.0) -> Model:
    torch.manual_seed(seed)
    network = Llama(width=16, layers=2, heads=2).build(Facts("language", (TOKENS,), vocabulary))
    with torch.no_grad():
        network.model.embed_tokens.weight.mul_(10 * sharp)  # far from uniform
    return Model(network, TokenView())


def data(seed: int = 0, batch: int = BATCH) -> dict[str, torch.Tensor]:
    ids = torch.randint(VOCABULARY, (batch, TOKENS), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids.clone()}


def gkd(teacher: Model | None = None, student: Model | None = None, **options):
    kind = GKD(prompt=PROMPT, rollout=ROLLOUT, **options)
    teacher, student = teacher or language_model(1), student or language_model(2)
    return kind.build(Roles(student, Frozen(teacher), FACTS, data()))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def reduced(losses) -> torch.Tensor:
    """What the engine makes of the one term."""
    (loss,) = losses.values()
    return loss.weight * (loss.values * loss.where).sum() / loss.where.sum()


def gradients(method, batch, seed: int = 0) -> tuple[torch.Tensor, list[torch.Tensor]]:
    method.student.module.zero_grad()
    loss = reduced(method.update_student(batch, rng(seed)))
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in method.student.parameters()]


# --- rollouts ---------------------------------------------------------------------------------


def test_rollouts_are_samples_of_the_model():
    """Against sampling that runs the whole text through the model for every token."""
    network, given = language_model(3).network, data()["input_ids"][:, :PROMPT]
    written = rollouts(network, given, ROLLOUT, rng(5), temperature=0.7)
    draw, ids = rng(5), given
    for _ in range(ROLLOUT):
        with torch.no_grad():
            chances = (network(input_ids=ids, use_cache=False).logits[:, -1] / 0.7).softmax(-1)
        ids = torch.cat([ids, torch.multinomial(chances, 1, generator=draw)], 1)
    assert torch.equal(written["input_ids"], ids)
    assert written["input_ids"].unique().numel() > 5
    assert (written["labels"][:, :PROMPT] == -100).all()
    assert torch.equal(written["labels"][:, PROMPT:], ids[:, PROMPT:])
    assert (written["attention_mask"] == 1).all()


def test_rollouts_take_their_randomness_from_the_generator_alone():
    network, given = language_model(3).network, data()["input_ids"][:, :PROMPT]
    before = torch.get_rng_state()
    one = rollouts(network, given, ROLLOUT, rng(5))
    torch.manual_seed(99)
    two = rollouts(network, given, ROLLOUT, rng(5))
    assert torch.equal(one["input_ids"], two["input_ids"])
    assert not torch.equal(one["input_ids"], rollouts(network, given, ROLLOUT, rng(6))["input_ids"])
    torch.manual_seed(99)
    after = torch.get_rng_state()
    rollouts(network, given, ROLLOUT, rng(5))
    assert torch.equal(torch.get_rng_state(), after)
    torch.set_rng_state(before)


def test_what_follows_the_end_is_padding():
    network, given = language_model(3).network, data(batch=40)["input_ids"][:, :PROMPT]
    ends = {3, 7, 11}
    written = rollouts(network, given, ROLLOUT, rng(), ends=ends)
    ended = 0
    for ids, mask, labels in zip(*(written[n] for n in ("input_ids", "attention_mask", "labels")), strict=True):
        own = ids[PROMPT:].tolist()
        count = next((place + 1 for place, token in enumerate(own) if token in ends), len(own))
        ended += count < len(own)
        assert mask.tolist() == [1] * (PROMPT + count) + [0] * (len(own) - count)
        assert labels.tolist() == [-100] * PROMPT + own[:count] + [-100] * (len(own) - count)
    assert ended > 3


def test_rollouts_stop_when_every_text_has_ended():
    network, given = language_model(3).network, data()["input_ids"][:, :PROMPT]
    assert rollouts(network, given, 50, rng(), ends=range(VOCABULARY))["input_ids"].shape[1] == PROMPT + 1


def test_rollouts_run_without_dropout_and_leave_modes_alone():
    network, given = language_model(3).network, data()["input_ids"][:, :PROMPT]
    network.model.layers[1].self_attn.attention_dropout = 0.9
    network.eval()
    calm = rollouts(network, given, ROLLOUT, rng(5))["input_ids"]
    network.train()
    network.model.norm.eval()
    assert torch.equal(rollouts(network, given, ROLLOUT, rng(5))["input_ids"], calm)
    assert network.training
    assert not network.model.norm.training


def test_end_tokens_are_the_networks_own():
    network = language_model(3).network
    assert end_tokens(network) == ()
    network.generation_config.eos_token_id = [3, 4]
    assert end_tokens(network) == (3, 4)
    assert end_tokens(nn.Linear(1, 1)) == ()


def test_prompts_are_beginnings_and_never_padding():
    batch = data()
    assert torch.equal(prompts(batch, 3), batch["input_ids"][:, :3])
    with pytest.raises(StillhouseError, match="prompts are to have 13 tokens, and a text has only 12"):
        prompts(batch, 13)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["attention_mask"][2, 5:] = 0
    with pytest.raises(StillhouseError, match="only 5"):
        prompts(batch, 6)


# --- the method -------------------------------------------------------------------------------


def test_on_policy_loss_is_the_divergence_on_what_the_student_wrote():
    """The reverse KL on the written positions alone, in float64 and probability space."""
    teacher, student = language_model(1), language_model(2)
    method = gkd(teacher, student)
    loss, _ = gradients(method, data())
    draw = rng()
    torch.rand((), generator=draw)  # u
    ids = rollouts(student.network, data()["input_ids"][:, :PROMPT], ROLLOUT, draw)["input_ids"]
    with torch.no_grad():
        q = student.network(input_ids=ids).logits.double().softmax(-1)
        p = teacher.network(input_ids=ids).logits.double().softmax(-1)
    naive = [
        (q[b, t - 1] * (q[b, t - 1] / p[b, t - 1]).log()).sum()
        for b in range(BATCH)
        for t in range(PROMPT, ids.shape[1])
    ]
    assert len(naive) == BATCH * ROLLOUT
    assert loss.item() == pytest.approx(torch.stack(naive).mean().item(), rel=1e-4)


def test_every_forward_pass_of_the_student_is_seen():
    """The ledger counts by a hook on the player's module; a rollout is as many passes as it has tokens."""
    method = gkd()
    passes = []
    method.student.module.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    method.update_student(data(), rng())
    assert passes == [PROMPT] + [1] * (ROLLOUT - 1) + [PROMPT + ROLLOUT]


def test_lambda_1_uses_of_the_data_only_the_prompts():
    method = gkd(student_data_fraction=1.0)
    batch = data()
    other = {name: value.clone() for name, value in batch.items()}
    other["input_ids"][:, PROMPT:] = data(1)["input_ids"][:, PROMPT:]
    other["labels"] = other["input_ids"]
    for seed in range(20):
        assert torch.equal(gradients(method, batch, seed)[0], gradients(method, other, seed)[0])
    other["input_ids"][:, 0] = (other["input_ids"][:, 0] + 1) % VOCABULARY
    assert not torch.equal(gradients(method, batch)[0], gradients(method, other)[0])


def test_lambda_0_is_distillation_on_the_data():
    teacher, student = language_model(1), language_model(2)
    on_data = gkd(teacher, student, student_data_fraction=0.0, divergence="kl")
    roles = Roles(copy.deepcopy(student), Frozen(teacher), FACTS, data())
    match = Match(terms=[KL()]).build(roles)
    for seed in range(5):
        ours, theirs = gradients(on_data, data(seed), seed), gradients(match, data(seed), seed)
        assert torch.equal(ours[0], theirs[0])
        assert all(torch.equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))


def test_lambda_is_the_share_of_whole_batches():
    method = gkd(student_data_fraction=0.3)
    draw, drawn, on_data = rng(), [], gkd(student_data_fraction=0.0, student=method.student.module)
    expected = reduced(on_data.update_student(data(), rng()))
    for _ in range(300):
        losses = method.update_student(data(), draw)
        drawn.append(losses.notes["on_policy"])
        if not drawn[-1]:
            assert torch.equal(reduced(losses), expected)
    assert set(drawn) == {0.0, 1.0}
    assert sum(drawn) / len(drawn) == pytest.approx(0.3, abs=0.08)  # 3 standard errors


@pytest.mark.parametrize("divergence", ["kl", "reverse_kl", "jsd"])
def test_padding_content_changes_nothing(divergence):
    batch = data()
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["attention_mask"][:4, 8:] = 0
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    other = dict(batch, input_ids=batch["input_ids"].clone())
    other["input_ids"][:4, 8:] = data(1)["input_ids"][:4, 8:]
    assert not torch.equal(batch["input_ids"], other["input_ids"])
    for fraction in (0.0, 1.0):
        method = gkd(student_data_fraction=fraction, divergence=divergence)
        ours, theirs = gradients(method, batch), gradients(method, other)
        torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=0)
        torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-7)


def test_what_stands_after_a_written_end_changes_nothing():
    student = language_model(2)
    student.network.generation_config.eos_token_id = [3, 7]
    method = gkd(student=student, student_data_fraction=0.0)
    written = rollouts(student.network, data(batch=40)["input_ids"][:, :PROMPT], ROLLOUT, rng(), ends=method.ends)
    assert method.ends == (3, 7)
    other = dict(written, input_ids=written["input_ids"].masked_fill(written["attention_mask"] == 0, 11))
    assert not torch.equal(written["input_ids"], other["input_ids"])
    assert torch.equal(gradients(method, written)[0], gradients(method, other)[0])


def test_gradients_reach_the_student_through_its_scores_alone():
    """The gradient is that of the same loss on the same text, written down beforehand."""
    method = gkd(student_data_fraction=1.0)
    _, on_policy = gradients(method, data())
    draw = rng()
    torch.rand((), generator=draw)
    written = method.written(data(), draw)
    assert not any(value.requires_grad for value in written.values())
    fixed = gkd(student=method.student.module, student_data_fraction=0.0)
    _, on_fixed = gradients(fixed, written)
    for a, b in zip(on_policy, on_fixed, strict=True):
        torch.testing.assert_close(a, b)
    assert all(p.grad is None for p in method.teacher.parameters())
    assert any(g.abs().max() > 1e-4 for g in on_policy)


def test_the_student_nears_the_teacher_on_its_own_text():
    """The reverse KL on fresh rollouts falls to less than a third; with the sign turned it rises."""

    def trained(sign: float) -> tuple[float, float]:
        method = gkd(language_model(1), language_model(2, sharp=0.1))
        optimizer = torch.optim.Adam(method.student.parameters(), lr=1e-2)
        draw, values = rng(), []
        for step in range(80):
            loss = reduced(method.update_student(data(step, batch=16), draw))
            optimizer.zero_grad()
            (sign * loss).backward()
            optimizer.step()
            values.append(loss.item())
        return sum(values[:5]) / 5, sum(values[-5:]) / 5

    first, last = trained(1.0)
    assert last < first / 3
    first, last = trained(-1.0)
    assert last > first


def test_interrupted_and_resumed_is_bitwise_the_same():
    """The generator's state, with the weights, is all that a rollout depends on."""

    def steps(method, optimizer, draw, which):
        for step in which:
            loss = reduced(method.update_student(data(step), draw))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    whole, halves = (gkd(student=language_model(2), student_data_fraction=0.5) for _ in range(2))
    adams = [torch.optim.SGD(method.student.parameters(), lr=0.1) for method in (whole, halves)]
    steps(whole, adams[0], rng(), range(8))
    draw = rng()
    steps(halves, adams[1], draw, range(4))
    state, went_on = draw.get_state(), rng(77)
    torch.rand(5)
    went_on.set_state(state)
    steps(halves, adams[1], went_on, range(4, 8))
    for a, b in zip(whole.student.parameters(), halves.student.parameters(), strict=True):
        assert torch.equal(a, b)


# --- what is refused --------------------------------------------------------------------------


def test_another_vocabulary_is_refused_with_both_widths():
    with pytest.raises(StillhouseError, match=r"logits are 23 wide and the teacher's 29.*one vocabulary"):
        gkd(teacher=language_model(1, vocabulary=29))


def test_a_missing_teacher_and_short_blocks_are_told_before_training():
    with pytest.raises(StillhouseError, match="needs a teacher"):
        GKD().build(Roles(language_model(2), None, FACTS, data()))
    with pytest.raises(StillhouseError, match="prompts are to have 16 tokens"):
        GKD().build(Roles(language_model(2), Frozen(language_model(1)), FACTS, data()))
    GKD(student_data_fraction=0).build(Roles(language_model(2), Frozen(language_model(1)), FACTS, data()))


def test_words_of_the_recipe():
    assert GKD.model_validate({"divergence": "jsd"}).divergence == GeneralisedJSD()
    assert GKD().divergence == ReverseKL()
    assert GKD().without_teacher() == Match(terms=[CrossEntropy(signal="labels")])
    with pytest.raises(ValueError, match="not on 'labels'"):
        GKD(divergence=CrossEntropy(signal="labels"))
