"""How a run shows itself: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from stillhouse.engine.events import Event, Listener, Progress, Said, Saved, StageBegins, StageEnds

if TYPE_CHECKING:
    from rich.progress import TaskID

PLAIN_SECONDS = 10.0
"""Time between two plain lines."""


class PlainProgress(Listener):
    """A line on stderr when a stage begins and ends, and every ten seconds between."""

    def __init__(self) -> None:
        self.shown_at = time.perf_counter()

    def heard(self, event: Event) -> None:
        match event:
            case StageBegins(stage, step, steps):
                self._line(f"{stage}: step {step} of {steps}" if step else f"{stage}: {steps} steps")
            case Progress() if time.perf_counter() - self.shown_at >= PLAIN_SECONDS:
                told = ", ".join(filter(None, (losses(event), speed(event))))
                self._line(f"{event.stage}: step {event.step} of {event.steps}, {told}")
            case StageEnds(stage, steps, seconds):
                self._line(f"{stage}: done, {steps} steps in {seconds:.1f} s")
            case Said(text):
                self._line(text)
            case _:
                return

    def _line(self, text: str) -> None:
        self.shown_at = time.perf_counter()
        print(text, file=sys.stderr, flush=True)


class LiveProgress(Listener):
    """Rich's live view: stage, step, time left, losses, throughput, memory."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.bars = Bars(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}", style="dim"),
            console=Console(stderr=True),
            refresh_per_second=5,
        )
        self.tasks: dict[str, TaskID] = {}
        self.bars.start()

    def heard(self, event: Event) -> None:
        match event:
            case StageBegins(stage, step, steps):
                self.tasks[stage] = self.bars.add_task(stage, total=steps, completed=step, told="")
            case Progress():
                told = f"{losses(event)}  {speed(event)}  {memory()}"
                self.bars.update(self.tasks[event.stage], completed=event.step, told=told)
            case StageEnds(stage, steps, seconds):
                self.bars.update(self.tasks[stage], completed=steps, told=f"done in {seconds:.1f} s")
            case Saved(stage, step):
                self.bars.update(self.tasks[stage], told=f"saved at step {step}")
            case Said(text):
                self.bars.console.print(text, markup=False)
            case _:
                return

    def close(self) -> None:
        self.bars.stop()


def losses(event: Progress) -> str:
    """The players' losses, in words."""
    named = {name.removeprefix("total/"): value for name, value in event.losses.items()}
    if len(named) == 1:
        return f"loss {next(iter(named.values())):.4g}"
    return ", ".join(f"{name} {value:.4g}" for name, value in named.items())


def speed(event: Progress) -> str:
    """Throughput, in words."""
    return f"{event.examples_per_second:,.0f} examples/s"


def memory() -> str:
    """Resident memory of this process, and of its GPU where it has one."""
    import psutil
    import torch

    text = f"{psutil.Process().memory_info().rss / 2**30:.1f} GiB"
    if torch.cuda.is_initialized():
        text += f" + {torch.cuda.memory_allocated() / 2**30:.1f} GiB GPU"
    return text


def progress(show: bool | None = None) -> Listener | None:
    """The view for this terminal; None when nothing is to be shown."""
    if show is False:
        return None
    return LiveProgress() if sys.stderr.isatty() else PlainProgress()
