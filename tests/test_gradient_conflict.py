"""The cosine between the gradients of terms, by hand, and what logging it must not change."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from engine_runs import recipe
from stillhouse.engine.conflict import cosines
from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Stage, Turn
from stillhouse.engine.events import Events
from stillhouse.engine.folder import RunFolder, read_lines
from stillhouse.engine.loop import Loop
from stillhouse.engine.process import Process
from stillhouse.engine.settings import SGD, Train
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.findings import Findings
from stillhouse.evaluation.gradients import DRAWN, gradient_conflict
from stillhouse.evaluation.kinds import Accuracy, GradientConflict
from stillhouse.recipe.execute import distill
from stillhouse.recipe.schema import Recipe
from test_evaluation import arm, context, random_answers
from test_loop import Numbers


def of(losses: Losses, *parameters: nn.Parameter) -> dict[str, float]:
    return cosines(losses, parameters, Process("cpu"))


def test_cosine_by_hand():
    """Gradients of w.(3, 4) and w.(4, 3) are (3, 4) and (4, 3): 24 / 25. A negative weight turns one round."""
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    a, b = (w * torch.tensor([3.0, 4.0])).sum(), (w * torch.tensor([4.0, 3.0])).sum()
    assert of(Losses(a=a, b=b), w) == {"cosine/a ~ b": pytest.approx(24 / 25)}
    assert of(Losses(a=a, b=Loss(b, weight=-0.1)), w) == {"cosine/a ~ b": pytest.approx(-24 / 25)}
    assert of(Losses(a=Loss(a, weight=7.0), b=b), w) == {"cosine/a ~ b": pytest.approx(24 / 25)}
    assert w.grad is None
    (a + b).backward()  # the graph is still there
    assert w.grad is not None
    assert w.grad.tolist() == [7.0, 7.0]


def test_every_pair_over_all_parameters_with_masks_against_float64():
    rng = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    x, y, where = (
        torch.randn(9, 4, generator=rng),
        torch.randn(9, 2, generator=rng),
        torch.rand(9, 2, generator=rng) < 0.5,
    )
    parameters = list(network.parameters())

    def terms() -> Losses:
        out = network(x)
        return Losses(mse=Loss((out - y) ** 2, where=where), l1=Loss((out - y).abs(), weight=0.3), odd=out.sin())

    found = of(terms(), *parameters)
    network.double()
    out = network(x.double())
    y = y.double()
    totals = {"mse": ((out - y) ** 2)[where].mean(), "l1": 0.3 * (out - y).abs().mean(), "odd": out.sin().mean()}
    flat = {
        name: torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters, retain_graph=True)])
        for name, total in totals.items()
    }
    expected = {
        f"cosine/{a} ~ {b}": (flat[a] @ flat[b] / (flat[a].norm() * flat[b].norm())).item()
        for a, b in (("mse", "l1"), ("mse", "odd"), ("l1", "odd"))
    }
    assert found == {name: pytest.approx(value, abs=1e-5) for name, value in expected.items()}


def test_terms_without_a_gradient_are_in_no_pair():
    w, frozen, part = (
        nn.Parameter(torch.ones(2)),
        nn.Parameter(torch.ones(2), requires_grad=False),
        nn.Parameter(torch.ones(2)),
    )
    losses = Losses(a=w.sum(), b=(w * 2).sum(), none=frozen.sum(), off=Loss(w.sum(), weight=0.0), part=part.sum())
    losses["lost"] = Loss((w * math.nan).sum())
    assert of(losses, w, frozen) == {"cosine/a ~ b": pytest.approx(1.0)}
    assert of(Losses(a=w.sum()), w) == {}


class TwoTerms(Method):
    """A linear student, drawn to its target and to zero."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.student = Player(nn.Linear(5, 1))

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update)

    def update(self, batch: Batch, rng: torch.Generator) -> Losses:
        out = self.student(batch["x"])
        return Losses(fit=(out - batch["y"]) ** 2, small=Loss(out**2, weight=0.5))


def train(folder: Path, looks: int, **settings: object) -> tuple[TwoTerms, list[dict]]:
    method = TwoTerms()
    settings = {"steps": 12, "optimizer": SGD(lr=0.05), "batch_size": 8, "log_every": 1} | settings
    stage = Stage("student", method, Numbers(), Train(**settings))  # type: ignore[arg-type]
    with RunFolder(folder) as opened:
        Loop(stage, process=Process("cpu"), folder=opened, events=Events(), seed=3, looks=looks).run()
    return method, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_looking_changes_nothing_and_comes_as_often_as_asked(tmp_path, accumulate):
    looked, lines = train(tmp_path / "looked", 4, accumulate=accumulate)
    plain, bare = train(tmp_path / "plain", 0, accumulate=accumulate)
    for a, b in zip(looked.student.parameters(), plain.student.parameters(), strict=True):
        assert a.equal(b)
    assert [line["step"] for line in lines if "cosine/fit ~ small" in line["losses"]] == [1, 4, 7, 10]
    assert all(abs(line["losses"].get("cosine/fit ~ small", 0)) <= 1 + 1e-6 for line in lines)
    assert not any(name.startswith("cosine") for line in bare for name in line["losses"])


def test_a_compiled_student_is_refused(tmp_path):
    with pytest.raises(StillhouseError, match="leave gradient-conflict out"):
        train(tmp_path / "run", 4, compile=True)


def line(step: int, losses: dict[str, float]) -> dict:
    return {"stage": "student", "step": step, "losses": {"total/student": 1.0} | losses}


def test_what_was_logged_is_summed_up():
    logits, labels = random_answers()
    shared = context(logits, labels, arm("student"))
    pair, other = "cosine/a ~ b", "cosine/a ~ c"
    shared.logged = {
        "student": [line(1, {pair: 0.5, other: -0.1}), line(2, {}), line(3, {pair: -0.5})],
        "control": [line(1, {})],
    }
    found = gradient_conflict(GradientConflict(), shared.arms["student"], shared)
    assert found.metrics == {"gradient_cosine": pytest.approx(-0.1 / 3), "gradient_conflict": pytest.approx(2 / 3)}
    (figure,) = found.figures
    assert figure["x"] == [1, 3]
    assert figure["series"] == {"a ~ c": [-0.1, None], "a ~ b": [0.5, -0.5]}  # the lowest first
    assert gradient_conflict(GradientConflict(), arm("control"), shared) == Findings()
    assert gradient_conflict(GradientConflict(), arm("teacher"), shared) == Findings()


def test_of_many_pairs_the_lowest_are_drawn():
    logits, labels = random_answers()
    shared = context(logits, labels, arm("student"))
    shared.logged = {"student": [line(1, {f"cosine/a ~ {n}": n / 10 for n in range(10)})]}
    (figure,) = gradient_conflict(GradientConflict(), shared.arms["student"], shared).figures
    assert list(figure["series"]) == [f"a ~ {n}" for n in range(DRAWN)]
    assert "6 lowest of 10 pairs" in figure["title"]
    shared.logged = {"student": [line(1, {"cosine/a ~ b": 0.1})]}
    (lone,) = gradient_conflict(GradientConflict(), shared.arms["student"], shared).figures
    assert lone["title"] == "Cosine between the terms' gradients: a ~ b"  # a single curve has no legend


def test_a_metric_that_is_not_registered_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Accuracy, "gives", {})
    with pytest.raises(StillhouseError, match="'accuracy' gives accuracy and does not say how it is read"):
        distill(recipe(steps=1), out=tmp_path / "run", device="cpu", progress=False)


def test_a_recipe_that_asks_for_it_gets_it(tmp_path):
    asked = recipe(steps=8, log_every=2).model_dump(exclude_unset=True) | {
        "evaluate": ["accuracy", {"kind": "gradient-conflict", "looks": 2}]
    }
    run = distill(Recipe.model_validate(asked), out=tmp_path / "run", device="cpu", progress=False)
    assert -1 <= run.summary["arms"]["student"]["gradient_cosine"] <= 1
    assert "gradient_cosine" not in run.summary["arms"]["teacher"]
    told = [
        entry for entry in read_lines(tmp_path / "run" / "metrics.jsonl") if any("cosine" in n for n in entry["losses"])
    ]
    assert [(entry["stage"], entry["step"]) for entry in told] == [("student", 2), ("student", 6)]
