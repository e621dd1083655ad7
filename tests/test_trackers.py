"""Trackers get what metrics.jsonl gets, under the run folder, and say what to install."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine_runs import recipe
from stillhouse.cli.main import main
from stillhouse.engine.events import Logged, StageBegins
from stillhouse.engine.trackers import TRACKERS, TensorBoard, numbers
from stillhouse.errors import StillhouseError
from stillhouse.recipe.execute import distill


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of a folder of event files, by tag: steps and values."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_every_line_of_metrics(tmp_path: Path) -> None:
    run = distill(recipe(steps=21), out=tmp_path / "run", device="cpu", progress=False, track="tensorboard")
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    stages = {line["stage"] for line in lines}
    assert len(stages) == 2
    for stage in stages:
        scalars = read(run.folder / "tensorboard" / stage)
        expected: dict[str, list[tuple[int, Any]]] = {}
        for line in lines:
            for name, value in numbers(line) if line["stage"] == stage else ():
                expected.setdefault(name, []).append((line["step"], pytest.approx(value, rel=1e-6)))
        assert scalars == expected
        assert [step for step, _ in scalars["losses/total/student"]][-1] == (21 if stage == "student" else 20)
    assert json.loads((run.folder / "launch.json").read_text())["track"] == "tensorboard"


def test_a_resumed_stage_replaces_what_was_logged_after_its_checkpoint(tmp_path: Path) -> None:
    for start, values in ((0, {5: 1.0, 10: 2.0, 15: 3.0}), (10, {15: 4.0, 20: 5.0})):
        tracker = TensorBoard(tmp_path)
        tracker.heard(StageBegins("student", start, 20))
        for step, value in values.items():
            tracker.heard(Logged("student", step, {"step": step, "losses": {"kl": value}}))
        tracker.close()
    assert read(tmp_path / "tensorboard" / "student")["losses/kl"] == [(5, 1.0), (10, 2.0), (15, 4.0), (20, 5.0)]


@pytest.mark.parametrize(("name", "extra"), [("tensorboard", "track"), ("trackio", "trackio"), ("wandb", "wandb")])
def test_a_missing_package_names_its_extra_and_leaves_no_run(
    name: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert name in TRACKERS
    monkeypatch.setitem(sys.modules, name, None)  # what Python does for a package that cannot be imported
    monkeypatch.setenv("TRACKIO_DIR", "")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "")
    with pytest.raises(StillhouseError, match=rf"pip install 'stillhouse\[{extra}\]'"):
        distill(recipe(), out=tmp_path / "run", device="cpu", progress=False, track=name)
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_told_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["run", "kd-digits", "--track", "tensorbord", "--out", str(tmp_path / "run"), "--quiet"])
    assert left.value.code == 2
    assert "did you mean 'tensorboard'?" in capsys.readouterr().err
