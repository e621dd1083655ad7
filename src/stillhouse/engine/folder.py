"""The run folder: every file appears whole under its final name, or not at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from stillhouse.errors import RunFailed, StillhouseError


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a forbidden folder into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunFailed(
                f"no space left on the disk while writing {path}. What was saved before is whole: "
                "free some space, then go on with `stillhouse resume`"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise RunFailed(f"may not write {path}: {error.strerror}. Choose another folder with --out") from error
        raise


def make_folder(path: Path) -> None:
    """Make a folder and those it lies in. Raises StillhouseError where there can be none, RunFailed for a full disk."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next(place for place in (path, *path.parents) if place.exists())
        raise StillhouseError(f"{file} is a file, not a folder: choose another place with --out") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunFailed(f"no space left on the disk for the folder {path}: free some space") from error
        raise StillhouseError(
            f"the folder {path} cannot be made ({error.strerror}): choose another place with --out"
        ) from error


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary name in the same folder, flush it to disk, then rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    make_folder(path.parent)
    with disk_errors(path):
        try:
            write(temporary)
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in a file, or an error that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StillhouseError(f"{path} is missing") from None
    except ValueError as error:
        raise StillhouseError(f"{path} is not JSON: {error}") from error


def hold(folder: Path) -> IO[bytes]:
    """Hold a folder until the file that this gives is closed, or the process ends.

    Raises StillhouseError where another process holds it.
    """
    with disk_errors(folder):
        lock = (folder / ".lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StillhouseError(f"another process is running in {folder}; wait for it, or stop it") from error
    return lock


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file; none where there is none. A last line that a kill cut off is left out."""
    if not path.is_file():
        return []
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            found = json.loads(text)
        except ValueError as error:
            if number < len(texts):
                raise StillhouseError(f"{path}, line {number} is not JSON: {error}") from error
            break
        if not isinstance(found, dict):
            raise StillhouseError(f"{path}, line {number} is no JSON object")
        lines.append(found)
    return lines


class RunFolder:
    """The folder a run leaves behind. Of several processes, only one `writes`."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self._metrics: IO[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def stages(self) -> Path:
        return self.path / "stages"

    def open(self) -> RunFolder:
        """Make the folder and hold it: a second process that opens it to write gets an error."""
        if not self.writes:
            return self
        make_folder(self.path)
        self._lock = hold(self.path)
        with disk_errors(self.path):
            self._metrics = (self.path / "metrics.jsonl").open("ab")
        return self

    def close(self) -> None:
        for handle in (self._metrics, self._lock):
            if handle is not None:
                handle.close()
        self._metrics = self._lock = None

    def __enter__(self) -> RunFolder:
        return self.open()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        if not self.writes:
            return
        assert self._metrics is not None, "the run folder is not open"
        with disk_errors(self.path / "metrics.jsonl"):
            self._metrics.write(json.dumps(line).encode() + b"\n")
            self._metrics.flush()

    def metrics_size(self) -> int:
        """Bytes logged so far."""
        if not self.writes:
            return 0
        assert self._metrics is not None, "the run folder is not open"
        return self._metrics.tell()

    def cut_metrics(self, size: int) -> None:
        """Drop what was logged after a checkpoint: those steps are done again."""
        if not self.writes:
            return
        assert self._metrics is not None, "the run folder is not open"
        self._metrics.truncate(min(size, self._metrics.tell()))
        self._metrics.seek(0, os.SEEK_END)
