"""A folder for one process at a time, marked with the settings of what is in it; nothing of anybody else is overwritten."""

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator

from experiments.parts import write

LOCK = ".lock"
"""The file that the process holds which works in a folder."""


class WorkdirError(ValueError):
    """A folder cannot be used; the message names it and the way out."""


@contextlib.contextmanager
def held(folder: pathlib.Path, *, wait: bool, flag: str = "workdir") -> Iterator[None]:
    """Creates a folder where there is none, and holds it for one process.

    Args:
        folder: which.
        wait: for the process that holds it, instead of an error.
        flag: that named the folder, for messages.

    Raises:
        WorkdirError: the folder is a file, cannot be written, or is in use.
    """
    if folder.exists() and not folder.is_dir():
        raise WorkdirError(f"{flag}={folder}: is a file; name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise WorkdirError(f"{flag}={folder}: cannot be written ({error.strerror}); name a folder that can") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise WorkdirError(f"{flag}={folder}: another process is using it; wait, or name another folder") from None
        yield


@contextlib.contextmanager
def claimed(folder: pathlib.Path, name: str, text: str, kind: str, other: str) -> Iterator[None]:
    """Holds a folder that is fresh, or bears exactly this mark.

    Args:
        folder: which.
        name: see :func:`marked`, like ``text`` and ``kind``.
        text: of the mark.
        kind: of what the folder is for.
        other: what it belongs to with another mark, for messages.

    Raises:
        WorkdirError: see :func:`held` and :func:`marked`; or the mark is another one.
    """
    with held(folder, wait=False):
        if marked(folder, name, text, kind) != text:
            raise WorkdirError(f"workdir={folder}: belongs to {other}; name another folder")
        yield


def marked(folder: pathlib.Path, name: str, text: str, kind: str) -> str:
    """Marks a fresh folder.

    Args:
        folder: which.
        name: of the file that is the mark.
        text: of the mark.
        kind: of what the folder is for, for messages.

    Returns:
        The mark that is there, which is not ``text`` where the folder was marked before.

    Raises:
        WorkdirError: there are files but no mark.
    """
    mark = folder / name
    if not mark.exists():
        if any(path.name != LOCK for path in folder.iterdir()):
            raise WorkdirError(f"workdir={folder}: holds files but no {kind}; name an empty or a new folder")
        write(mark, text)
    return mark.read_text()
