"""The loops of docs/your-own-loop.md: a few changed lines, the loss they say, and a teacher that teaches."""

from __future__ import annotations

import copy
import difflib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse import Frozen, Model, StillhouseError, Taught
from stillhouse.store import Dense, Store, build_store
from stillhouse.teachers.stored import StoredTeacher
from stillhouse.views.tokens import TokenView

HOME = Path(__file__).parent.parent
DOCUMENTED = (HOME / "docs" / "your-own-loop.md").read_text()
LOOPS = ("plain_loop.py", "accelerate_loop.py", "trainer_loop.py")


def taught(name: str) -> str:
    return (HOME / "examples" / name).read_text()


def untaught(name: str) -> str:
    """The example with the documented change taken back."""
    found = re.search(rf"`examples/{name}`.*?```diff\n(.*?)```", DOCUMENTED, re.DOTALL)
    assert found, f"no documented change of {name}"
    source = taught(name)
    for hunk in re.split(r"^@@.*\n", found[1], flags=re.MULTILINE)[1:]:
        lines = hunk.splitlines()
        new = "\n".join(line[1:] for line in lines if line[:1] != "-")
        old = "\n".join(line[1:] for line in lines if line[:1] != "+")
        assert source.count(new) == 1, f"{name} has not, or not just once:\n{new}"
        source = source.replace(new, old)
    return source


def run(source: str, folder: Path, name: str = "__main__") -> dict[str, Any]:
    """The names a script leaves, run as one or only imported."""
    space: dict[str, Any] = {"__name__": name}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["loop", str(folder)])
        exec(compile(source, "loop", "exec"), space)
    return space


@pytest.mark.parametrize("name", LOOPS)
def test_a_teacher_takes_about_five_lines(name: str) -> None:
    before, after = untaught(name), taught(name)
    assert "stillhouse import" not in before
    assert "Frozen" not in before
    changes = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
    added = [line for line in changes if line[0] == "+" and line[1:].strip()]
    assert 1 <= len(added) <= 6, "\n".join(changes)


def held_out(space: dict[str, Any]) -> tuple[Any, ...]:
    """What the three scripts' students were not trained on."""
    return (space["blocks"][2000:2050],) if "blocks" in space else (space["images"][space["SEEN"] :],)


def kl_to(teacher: nn.Module, student: nn.Module, inputs: tuple[Any, ...]) -> float:
    """At the temperature that the script trains at."""
    with torch.no_grad():
        p, q = (logits_of(model.eval()(*inputs)) for model in (teacher, student))
    t = 1.0 if isinstance(teacher, PreTrainedModel) else 4.0
    return float(kl(p.double().numpy() / t, q.double().numpy() / t).mean())


def logits_of(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL of two rows of logits, in float64."""
    log_p, log_q = log_softmax(p, -1), log_softmax(q, -1)
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


@pytest.mark.parametrize("name", LOOPS)
def test_the_scripts_run_with_a_teacher_and_without_and_it_teaches(name: str, tmp_path: Path) -> None:
    without, with_one = run(untaught(name), tmp_path), run(taught(name), tmp_path)
    inputs = held_out(with_one)
    torch.manual_seed(1)
    fresh = with_one["llama"](16, 1) if "llama" in with_one else with_one["network"](8)
    before, after = (kl_to(with_one["large"], student, inputs) for student in (fresh, with_one["small"]))
    alone = kl_to(without["large"], without["small"], inputs)
    print(f"KL to the teacher: at first {before:.3f}, without it {alone:.3f}, with it {after:.3f}")
    assert after < 0.6 * before
    if name != "trainer_loop.py":  # there teacher and text say nearly the same; see the next test
        assert after < 0.7 * alone, "hardly nearer to the teacher than training without it"


def test_a_trainer_learns_what_only_the_teacher_knows(tmp_path: Path) -> None:
    """The teacher's answers have nothing to do with the text: from the labels nobody learns them."""
    space = run(taught("trainer_loop.py"), tmp_path, name="imported")
    torch.manual_seed(0)
    large, student = space["llama"](16, 1), space["llama"](16, 1)
    with torch.no_grad():
        large.lm_head.weight *= 30
    held = (space["blocks"][2000:2050],)
    before = kl_to(large, student, held)
    args = space["arguments"](str(tmp_path), 40, learning_rate=0.02, disable_tqdm=True)
    space["TaughtTrainer"](
        model=student, args=args, train_dataset=space["seen"], teacher=Frozen(large), share=1
    ).train()
    assert kl_to(large, student, held) < 0.5 * before


def first_loss(space: dict[str, Any], student: nn.Module, teacher: Frozen) -> float:
    torch.manual_seed(3)
    return space["train"](student, 1, teacher=teacher)[0]


@pytest.mark.parametrize("name", LOOPS[:2])
def test_the_first_loss_on_digits_and_a_teacher_that_stays(name: str, tmp_path: Path) -> None:
    space = run(taught(name), tmp_path, name="imported")
    torch.manual_seed(0)
    large, student = space["network"](16), space["network"](8)
    rows = torch.arange(40)
    if name == "plain_loop.py":
        torch.manual_seed(3)
        rows = torch.randint(space["SEEN"], (1, 64))[0]
    else:
        space["SEEN"] = 40  # one batch an epoch
    image, label = space["images"][rows].double(), space["labels"][rows].numpy()
    with torch.no_grad():
        q = copy.deepcopy(student).double().train()(image).numpy()
        p = copy.deepcopy(large).double().eval()(image).numpy()
    expected = -log_softmax(q, -1)[np.arange(len(label)), label].mean() + 16 * kl(p / 4, q / 4).mean()

    before, began = copy.deepcopy(large.state_dict()), copy.deepcopy(student.state_dict())
    assert first_loss(space, student, Frozen(large)) == pytest.approx(expected, rel=1e-5)
    space["train"](student, 4, teacher=Frozen(large))
    assert all(torch.equal(value, before[key]) for key, value in large.state_dict().items())
    assert not torch.equal(student.state_dict()["0.weight"], began["0.weight"])


def texts(space: dict[str, Any]) -> list[dict[str, Tensor]]:
    """Four blocks of real text, of which 60, 3, 17 and 1 tokens count."""
    rows = []
    for block, start in zip(space["blocks"][:4], (4, 61, 47, 63), strict=True):
        labels = block.clone()
        labels[:start] = -100
        rows.append({"input_ids": block, "labels": labels})
    return rows


def taught_loss(student: nn.Module, teacher: nn.Module, rows: list[dict[str, Tensor]], share: float, t: float) -> float:
    """The mean over all counted tokens of all rows, token by token, in float64."""
    values = []
    for row in rows:
        with torch.no_grad():
            q, p = (copy.deepcopy(m).double().eval()(row["input_ids"][None]).logits[0] for m in (student, teacher))
        for position in range(1, 64):
            label = int(row["labels"][position])
            if label != -100:
                ours, theirs = q[position - 1].numpy(), p[position - 1].numpy()
                divergence = t**2 * kl(theirs / t, ours / t)
                values.append(share * divergence - (1 - share) * log_softmax(ours)[label])
    assert len(values) == 81
    return float(np.mean(values))


@pytest.mark.parametrize(("share", "temperature"), [(0.5, 1.0), (0.9, 2.0)])
def test_the_trainers_loss_and_step_do_not_depend_on_how_batches_are_cut(
    share: float, temperature: float, tmp_path: Path
) -> None:
    space = run(taught("trainer_loop.py"), tmp_path, name="imported")
    torch.manual_seed(0)
    large, small = space["llama"](16, 1), space["llama"](8, 1)
    rows = texts(space)
    expected = taught_loss(small, large, rows, share, temperature)
    before = copy.deepcopy(large.state_dict())
    ends = []
    for size, accumulated in ((1, 4), (2, 2), (4, 1)):
        student = copy.deepcopy(small)
        changes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "optim": "sgd"}
        args = space["arguments"](str(tmp_path), 1, learning_rate=1.0, disable_tqdm=True, **changes)
        options = {"teacher": Frozen(large), "share": share, "temperature": temperature}
        trainer = space["TaughtTrainer"](model=student, args=args, train_dataset=rows, **options)
        assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(expected, rel=1e-5)
        trainer.train()
        assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(expected, rel=1e-5)
        ends.append(student.state_dict())
    moved = ends[0]["lm_head.weight"] - small.state_dict()["lm_head.weight"]
    assert moved.abs().max() > 1e-4
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in large.state_dict().items())


def test_a_trainer_of_something_else_is_refused(tmp_path: Path) -> None:
    from transformers import LlamaForSequenceClassification, Trainer

    space = run(taught("trainer_loop.py"), tmp_path, name="imported")
    config = space["llama"](8, 1).config
    args = space["arguments"](str(tmp_path), 1)
    with pytest.raises(StillhouseError, match="LlamaForSequenceClassification is none"):
        space["TaughtTrainer"](model=LlamaForSequenceClassification(config), args=args, teacher=nn.Identity())
    assert issubclass(space["TaughtTrainer"], Taught)
    assert issubclass(space["TaughtTrainer"], Trainer)


def small_llama(space: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    return space["llama"](8, 1)


@pytest.mark.parametrize("make", [lambda n: Frozen(n), lambda n: Frozen(Model(n, TokenView()))])
def test_a_bare_language_model_answers_as_it_is_and_with_a_view_shifted(
    make: Callable[[nn.Module], Frozen], tmp_path: Path
) -> None:
    space = run(taught("trainer_loop.py"), tmp_path, name="imported")
    network = small_llama(space)
    batch = {"input_ids": space["blocks"][:2], "attention_mask": torch.ones(2, 64, dtype=torch.long)}
    batch |= {"labels": batch["input_ids"], "index": torch.arange(2)}
    answer = make(network).signals(batch)["logits"]
    whole = network(batch["input_ids"]).logits.detach()
    torch.testing.assert_close(answer, whole if answer.shape[1] == 64 else whole[:, :-1])


class Images:
    """A source of one's own: three fields are all it takes."""

    fingerprint = "some digits"

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> dict[str, Tensor]:
        return {"index": indices, "image": self.images[indices]}


def test_a_bare_teachers_answers_go_to_disk_and_come_back(tmp_path: Path) -> None:
    space = run(taught("plain_loop.py"), tmp_path, name="imported")
    teacher, source = Frozen(space["network"](16)), Images(space["images"][:50])
    build_store(tmp_path / "store", teacher, source, signals={"logits": Dense("float32")})
    batch = source.fetch(torch.tensor([3, 41]), None)
    stored = StoredTeacher(Store.open(tmp_path / "store"), source)
    torch.testing.assert_close(stored.signals(batch)["logits"], teacher(batch["image"]))
