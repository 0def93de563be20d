"""Checkpoints: Orbax behind three methods, with a manifest of checksums that is written last.

Orbax notices damaged metadata but not a flipped bit in an array file. So a step counts only once its SHA-256 manifest is in
place, and a step whose files no longer match is passed over for the one before. This is the only file that knows Orbax.
"""

import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp


class CheckpointError(ValueError):
    """No saved step can be trusted; the message names the folder and the way out."""


class Checkpoints:
    """The saved steps of one run.

    Attributes:
        directory: where they live; created on first use.
        keep: how many of the newest steps stay on disk.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 2):
        self.directory = pathlib.Path(directory).absolute()
        self.keep = keep

    def save(self, step: int, state: Any) -> None:
        """Writes a state and, once all of it is on disk, its manifest; then drops steps beyond ``keep``.

        Args:
            step: global step, the name of the checkpoint. Saving a step again replaces it.
            state: a pytree of arrays.
        """
        folder = self.directory / str(step)
        shutil.rmtree(folder, ignore_errors=True)
        self._manifest(step).unlink(missing_ok=True)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder, state)
            checkpointer.wait_until_finished()
        partial = self._manifest(step).with_suffix(".partial")
        partial.write_text(json.dumps(_checksums(folder), indent=1, sort_keys=True))
        partial.replace(self._manifest(step))
        for old in self.steps()[: -self.keep]:
            self._manifest(old).unlink()
            shutil.rmtree(self.directory / str(old), ignore_errors=True)

    def steps(self) -> list[int]:
        """The steps that were saved to the end, oldest first; damaged ones included."""
        return sorted(int(path.stem) for path in self.directory.glob("*.json") if path.stem.isdigit())

    def intact(self, step: int) -> bool:
        """Whether every file of a saved step still has the checksum of its manifest."""
        try:
            return json.loads(self._manifest(step).read_text()) == _checksums(self.directory / str(step))
        except (OSError, json.JSONDecodeError):
            return False

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """The newest intact step and its state.

        Args:
            like: a state of the same structure, shapes and types; only those are read.

        Returns:
            ``(step, state)``, or None where nothing was ever saved.

        Raises:
            CheckpointError: steps were saved but none of them is intact, or its structure is another one.
        """
        saved = self.steps()
        for step in reversed(saved):
            if self.intact(step):
                return step, self._read(step, like)
        if saved:
            raise CheckpointError(
                f"workdir={self.directory.parent}: every checkpoint in it is damaged (steps {saved}); "
                "delete its checkpoints folder to start again, or name another workdir"
            )
        return None

    def _read(self, step: int, like: Any) -> Any:
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like)
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                return checkpointer.restore(self.directory / str(step), abstract)
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0][:120]
            raise CheckpointError(
                f"workdir={self.directory.parent}: checkpoint {step} does not fit this version's state ({reason}); "
                "name another workdir"
            ) from None

    def _manifest(self, step: int) -> pathlib.Path:
        return self.directory / f"{step}.json"


def _checksums(folder: pathlib.Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
