"""Folders: for one process at a time, marked with what is in them; and files that are there whole or not at all."""

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import filelock

from ani_jax.config import Config
from ani_jax.training import processes
from experiments.progress import say

LOCK = ".lock"
"""The file that the process holds which works in a folder; its text says which one that is."""
PATIENCE = 0.5
"""Seconds after which a process that waits says so."""
MARKS = {"run": "config.json", "audit": "audit.json", "frontier": "command.txt"}
"""The file that says which run, audit or frontier a folder belongs to."""


class WorkdirError(ValueError):
    """A folder cannot be used; the message names it and the way out."""


class Busy(WorkdirError):
    """Another process works in a folder."""


@contextlib.contextmanager
def held(
    folder: Path,
    kind: str,
    mark: str,
    other: Callable[[str], str],
    *,
    wait: bool = False,
    flag: str = "workdir",
) -> Iterator[None]:
    """Holds a folder for one process: a fresh one, which it marks, or one that bears its mark; any other is an error.

    Args:
        folder: which; created where there is none.
        kind: of what is in it, a key of ``MARKS``.
        mark: what is written there.
        other: from what is written there already to whom the folder belongs then; "" where it is this one.
        wait: for the process that holds it, instead of an error; whoever waits says so.
        flag: that named the folder, for messages.
    """
    if folder.exists() and not folder.is_dir():
        raise WorkdirError(f"{flag}={folder}: is a file; name a folder")
    lock = filelock.FileLock(folder / LOCK, preserve_lock_file=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        acquired = lock.acquire(PATIENCE if wait else 0)
    except filelock.Timeout:
        holder = " ".join(("another process", *(f"({name})" for name in (folder / LOCK).read_text().splitlines())))
        if not wait:
            raise Busy(f"{flag}={folder}: {holder} is using it; wait, or name another folder") from None
        say(f"waiting for {folder}, which {holder} is using")
        acquired = lock.acquire()
    except OSError as error:
        raise WorkdirError(f"{flag}={folder}: cannot be written ({error.strerror}); name a folder that can") from None
    with acquired:
        (folder / LOCK).write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        place = folder / MARKS[kind]
        if not place.exists():
            if any(path.name != LOCK for path in folder.iterdir()):
                raise WorkdirError(f"workdir={folder}: holds files but no {kind}; name an empty or a new folder")
            write(place, mark)
        if owner := other(place.read_text()):
            raise WorkdirError(f"workdir={folder}: {owner}; name another folder")
        yield


@contextlib.contextmanager
def claim(
    folder: Path, config: Config, *, kind: str = "run", wait: bool = False, flag: str = "workdir"
) -> Iterator[None]:
    """Holds the folder of a config; of several processes, the main one holds it for all. See :func:`held`."""

    def other(mark: str) -> str:
        try:
            old, new = type(config).read(mark).settings, config.settings
        except ValueError as error:
            return f"its {MARKS[kind]} cannot be read ({error})"
        names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)][:3]
        told = "; ".join(f"{name}: {old.get(name)} there, {new.get(name)} asked" for name in names)
        return f"belongs to {'an' if kind == 'audit' else 'a'} {kind} with another config ({told})" if names else ""

    with contextlib.ExitStack() as stack:
        processes.on_main(lambda: stack.enter_context(held(folder, kind, config.json(), other, wait=wait, flag=flag)))
        yield


class Parts(MutableMapping[str, str]):
    """A folder as a mapping from names to texts; created with its first entry, gone with its last."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, name: str) -> Path:
        """The file of that name."""
        return self.folder / f"{re.sub(r'[^0-9A-Za-z=_-]+', '-', name)}.json"

    def __getitem__(self, name: str) -> str:
        try:
            return self.path(name).read_text()
        except OSError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write(self.path(name), text)

    def __delitem__(self, name: str) -> None:
        self.path(name).unlink()
        if not len(self):
            # What a kill left half written goes too.
            shutil.rmtree(self.folder)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(path.stem for path in self.folder.glob("*.json")))

    def __len__(self) -> int:
        return len(list(self.folder.glob("*.json")))


def write(path: Path, text: str) -> None:
    """Writes a file so that it is either there whole or not at all."""
    with whole(path, "w") as file:
        file.write(text)


@contextlib.contextmanager
def whole(path: Path, mode: str) -> Iterator[Any]:
    """An open file that is there under its name in the end, and only then."""
    partial = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    with partial.open(mode) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
