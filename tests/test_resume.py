"""A run killed anywhere and resumed ends bit for bit where the uninterrupted run ends."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
import torch

import engine_runs
from stillhouse.engine.checkpoint import Checkpoints, read_summed, write_summed
from stillhouse.errors import Interrupted, StillhouseError
from stillhouse.recipe.execute import resume

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["engine_runs", "torch._dynamo"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    engine_runs.start(folder)
    return folder


def run_in_child(folder: Path, seconds: float | None = None, flush: int | None = None) -> int:
    """Run or resume in a child; kill it after some seconds, or at some flush to disk. Returns its exit code."""
    if flush is None:
        child = CONTEXT.Process(target=engine_runs.start, args=(str(folder),))
    else:
        child = CONTEXT.Process(target=engine_runs.start_and_die, args=(str(folder), flush))
    child.start()
    if seconds is not None:
        child.join(seconds)
        child.kill()
    child.join(600)
    assert child.exitcode is not None
    return child.exitcode


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    state = read_summed(folder / "stages", "student")
    assert state is not None
    return state["network"]


def losses(folder: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["stage"], line["step"], line["losses"]) for line in lines]


def assert_same(folder: Path, whole: Path) -> None:
    ours, theirs = final_weights(folder), final_weights(whole)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    assert losses(folder) == losses(whole)


def test_killed_at_random_moments(tmp_path: Path, whole: Path):
    moments = random.Random(2)
    folder, kills, rounds = tmp_path / "run-0", 0, 0
    began = time.perf_counter()
    assert run_in_child(tmp_path / "timed") == 0
    length = time.perf_counter() - began
    while kills < 6:
        if run_in_child(folder, seconds=moments.uniform(0.1, 0.5) * length) == -signal.SIGKILL:
            kills += 1
        else:  # it was done before the kill: look at it, and start another one
            assert_same(folder, whole)
            rounds += 1
            folder = tmp_path / f"run-{rounds}"
    assert run_in_child(folder) == 0
    assert_same(folder, whole)


def test_killed_while_writing(tmp_path: Path, whole: Path):
    folder = tmp_path / "run"
    left_half = 0
    for flush in (1, 2, 9, 3, 24, 7, 31):
        assert run_in_child(folder, flush=flush) == -signal.SIGKILL
        left_half += len(list(folder.rglob(".*.tmp")))
    assert left_half, "at least one kill fell between writing a file and renaming it"
    assert run_in_child(folder) == 0
    assert_same(folder, whole)
    assert not list(folder.rglob("*.tmp"))


def interrupted(folder: Path, after: int) -> None:
    """Run until the checkpoint after that many steps of the student, then stop as Ctrl-C does."""
    import os

    from stillhouse.engine.events import Listener, Saved
    from stillhouse.recipe.execute import distill

    class Press(Listener):
        def heard(self, event: object) -> None:
            if isinstance(event, Saved) and event.stage == "student" and event.step == after:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="stillhouse resume"):
        distill(engine_runs.recipe(), out=folder, device="cpu", progress=False, listeners=[Press()])


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, whole: Path):
    interrupted(tmp_path / "run", after=11)
    assert not (tmp_path / "run" / "summary.json").exists()
    resume(tmp_path / "run", progress=False)
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_checkpoint_is_passed_over(tmp_path: Path, whole: Path, damage: str, capsys: pytest.CaptureFixture):
    folder = tmp_path / "run"
    interrupted(folder, after=11)
    points = Checkpoints(folder / "checkpoints").found()
    assert len(points) == 2, "the last two are kept"
    content = bytearray(points[-1].path.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    points[-1].path.write_bytes(content)
    resume(folder)
    assert f"{points[-1].path.name} is damaged" in capsys.readouterr().err.replace("\n", "")
    assert_same(folder, whole)


def test_resuming_a_finished_run_changes_nothing(whole: Path):
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file()}
    resume(whole, progress=False)
    assert before == {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file()}


def test_a_folder_without_a_run(tmp_path: Path):
    with pytest.raises(StillhouseError, match="holds no run"):
        resume(tmp_path)


def test_a_second_process_is_kept_out(tmp_path: Path, whole: Path):
    from stillhouse.engine.folder import RunFolder

    with RunFolder(tmp_path / "run"), pytest.raises(StillhouseError, match="another process"):
        RunFolder(tmp_path / "run").open()


def test_trees_round_trip(tmp_path: Path):
    shared = torch.arange(6.0).view(2, 3)
    tree = {
        "a": [1, 2.5, None, True, "word"],
        3: (shared, shared.t()),
        "empty": torch.empty(0, dtype=torch.long),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "nan": float("nan"),
    }
    write_summed(tmp_path, "tree", tree)
    back = read_summed(tmp_path, "tree")
    assert back["a"] == tree["a"]
    assert torch.equal(back[3][0], shared)
    assert torch.equal(back[3][1], shared.t())
    assert back["empty"].dtype == torch.long
    assert torch.equal(back["half"], tree["half"])
    assert back["nan"] != back["nan"]


def test_damaged_stage_weights_are_named(tmp_path: Path):
    path = write_summed(tmp_path, "student", {"x": torch.ones(4)})
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)
    with pytest.raises(StillhouseError, match="damaged"):
        read_summed(tmp_path, "student")
