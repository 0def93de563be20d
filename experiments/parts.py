"""Files that are there whole or not at all, and a folder of them that keeps the finished parts of an audit."""

import os
import pathlib
import re
import shutil
from collections.abc import Iterator, MutableMapping


class Parts(MutableMapping[str, str]):
    """A folder as a mapping from names to texts; created with its first entry, gone with its last.

    Args:
        folder: where the files are.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def __getitem__(self, name: str) -> str:
        """The text of that name."""
        try:
            return self._path(name).read_text()
        except OSError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, text: str) -> None:
        """Writes the text whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write(self._path(name), text)

    def __delitem__(self, name: str) -> None:
        """Removes the text."""
        self._path(name).unlink()
        if not len(self):
            # What a kill left half written goes too.
            shutil.rmtree(self.folder)

    def __iter__(self) -> Iterator[str]:
        """Names as files have them."""
        return iter(sorted(path.stem for path in self.folder.glob("*.json")))

    def __len__(self) -> int:
        return len(list(self.folder.glob("*.json")))

    def _path(self, name: str) -> pathlib.Path:
        return self.folder / f"{re.sub(r'[^0-9A-Za-z=_-]+', '-', name)}.json"


def write(path: pathlib.Path, text: str) -> None:
    """Writes a file so that it is either there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
