"""Listeners that hand a run's metrics to a tracker: TensorBoard, Trackio or Weights & Biases.

All of them write under the run folder, from the first stage's start on. Nothing leaves the machine
unless the user has said so to the tracker itself (a W&B login, WANDB_MODE, TRACKIO_SPACE_ID).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

from stillhouse.engine.events import Event, Listener, Logged, StageBegins
from stillhouse.errors import StillhouseError, nearest

PROJECT = "stillhouse"


class TensorBoard(Listener):
    """Event files in `<run>/tensorboard/<stage>`: each stage is a run of its own to TensorBoard.

    A resumed stage hides what was logged after the checkpoint it goes on from.
    """

    def __init__(self, folder: Path) -> None:
        _imported("tensorboard", "track")
        self.folder = folder / "tensorboard"
        self.writer: Any = None

    def heard(self, event: Event) -> None:
        match event:
            case StageBegins(stage, step):
                from torch.utils.tensorboard import SummaryWriter

                self.close()
                self.writer = SummaryWriter(str(self.folder / stage), purge_step=step + 1 if step else None)
            case Logged(_, step, line) if self.writer is not None:
                for name, value in numbers(line):
                    self.writer.add_scalar(name, value, step)
            case _:
                return

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


class Trackio(Listener):
    """A local database in `<run>/trackio`; each stage is a run of its own.

    Raises StillhouseError in a process that has written to another folder: Trackio keeps to its first.
    """

    def __init__(self, folder: Path) -> None:
        self.name, self.run = folder.resolve().name, None
        wanted = (folder / "trackio").resolve()
        os.environ["TRACKIO_DIR"] = str(wanted)  # read once, at the import
        self.trackio: Any = _imported("trackio", "trackio")
        if Path(self.trackio.utils.TRACKIO_DIR) != wanted:
            raise StillhouseError(
                f"--track trackio: this process already writes to {self.trackio.utils.TRACKIO_DIR}, and Trackio "
                "cannot change its folder: start each tracked run in a process of its own"
            )

    def heard(self, event: Event) -> None:
        match event:
            case StageBegins(stage):
                self.close()
                with redirect_stdout(sys.stderr):
                    name = f"{self.name}-{stage}"
                    self.run = self.trackio.init(project=PROJECT, name=name, resume="allow", embed=False)
            case Logged(_, step, line) if self.run is not None:
                self.run.log(dict(numbers(line)), step=step)
            case _:
                return

    def close(self) -> None:
        if self.run is not None:
            with redirect_stdout(sys.stderr):
                self.trackio.finish()
            self.run = None


class WandB(Listener):
    """A W&B run in `<run>/wandb`; a stage's metrics carry its name and are drawn over its own steps.

    Offline, unless the user has logged in or set WANDB_MODE. A resumed run is a second W&B run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, None
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self.wandb: Any = _imported("wandb", "wandb")

    def heard(self, event: Event) -> None:
        match event:
            case StageBegins(stage):
                self.run = self.run or self._started()
                self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            case Logged(stage, step, line) if self.run is not None:
                told = {f"{stage}/{name}": value for name, value in numbers(line)}
                self.run.log(told | {f"{stage}/step": step})
            case _:
                return

    def _started(self) -> Any:
        mode = os.environ.get("WANDB_MODE") or ("online" if self.wandb.login(prompt=False) else "offline")
        name = self.folder.resolve().name
        return self.wandb.init(project=PROJECT, name=name, dir=str(self.folder), mode=mode)

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()
            self.run = None


TRACKERS: dict[str, type[TensorBoard] | type[Trackio] | type[WandB]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WandB,
}


def tracker(name: str, folder: Path) -> Listener:
    """The tracker of that name, writing under a run folder.

    Raises StillhouseError for an unknown name, and where its package is not installed.
    """
    if name not in TRACKERS:
        raise StillhouseError(f"--track: there is no tracker {name!r}; {nearest(name, TRACKERS)}")
    return TRACKERS[name](folder)


def numbers(line: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a line of metrics but its step, by its path: `losses/total/student`, `lr/student`."""
    for name, value in line.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "step":
            yield prefix + name, float(value)


def _imported(package: str, extra: str) -> Any:
    """The tracker's package. Raises StillhouseError naming the extra that brings it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise StillhouseError(
            f"--track {package}: the package {package} cannot be imported ({error}). "
            f"Install it with: pip install 'stillhouse[{extra}]'"
        ) from error
