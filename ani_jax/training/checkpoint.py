"""Checkpoints: Orbax behind three methods, with a manifest of checksums that is written last.

Orbax notices damaged metadata but not a flipped bit in an array file. So a step counts only once its SHA-256 manifest is in
place, and a step whose files no longer match is passed over for the one before. This is the only file that knows Orbax.

What is saved is one device's state as plain arrays, whatever spread the work, so it restores on any number of devices and
processes. The main process alone reads and writes; the others are told.
"""

import hashlib
import json
import os
import pathlib
import shutil
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ani_jax.training.processes import from_main, is_key, is_main, on_main

_ONE_AT_A_TIME = threading.Lock()
"""Orbax counts its operations for the whole process: of two saves at once, one waits minutes for the other's signals."""


class CheckpointError(ValueError):
    """No saved step can be trusted; the message names the folder and the way out."""


class Checkpoints:
    """The saved steps of one run; a save may go on in the background, and every other method waits for its end.

    Attributes:
        directory: where they live; created on first use.
        keep: how many of the newest steps stay on disk.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 2):
        self.directory = pathlib.Path(directory).absolute()
        self.keep = keep
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future[None] | None = None

    def save(self, step: int, state: Any, *, wait: bool = True) -> None:
        """Writes a copy of a state and, once all of it is on disk, its manifest; then drops steps beyond ``keep``.

        Args:
            step: global step, the name of the checkpoint. Saving a step again replaces it.
            state: a pytree of arrays, which may be donated as soon as this returns.
            wait: False writes in the background, and :meth:`wait` must be called in the end.

        Raises:
            OSError: this save failed, or one in the background before it.
        """
        self.wait()
        if is_main():
            # Copied here and not in the background: the next step donates the state.
            self._saving = self._writer.submit(self._write, step, jax.tree.map(_plain, state))
        if wait:
            self.wait()

    def wait(self) -> None:
        """Returns once nothing is being written any more.

        Raises:
            OSError: the last save failed.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _write(self, step: int, plain: Any) -> None:
        folder = self.directory / str(step)
        # A step is never listed while its files are incomplete, so the manifest goes first and comes last.
        self._manifest(step).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        with _ONE_AT_A_TIME, _checkpointer() as checkpointer:
            checkpointer.save(folder, plain)
            checkpointer.wait_until_finished()
        # Written under another name first: a step is listed with its whole manifest or not at all.
        partial = self._manifest(step).with_suffix(".partial")
        partial.write_text(json.dumps(_checksums(folder), indent=1, sort_keys=True))
        partial.replace(self._manifest(step))
        listed = self._listed()
        for old in listed[: -self.keep]:
            # Manifests before files, for the same reason as above.
            self._manifest(old).unlink()
        kept = {str(old) for old in listed[-self.keep :]}
        for path in self.directory.iterdir():
            # Old steps, and what a killed save left behind; what a utility budget keeps lies here too, and begins with no digit.
            if path.is_dir() and path.name[0].isdigit() and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def steps(self) -> list[int]:
        """The steps that were saved to the end, oldest first; damaged ones included."""
        self.wait()
        return self._listed()

    def _listed(self) -> list[int]:
        return sorted(int(path.stem) for path in self.directory.glob("*.json") if path.stem.isdigit())

    def intact(self, step: int) -> bool:
        """Whether every file of a saved step still has the checksum of its manifest."""
        self.wait()
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

        def newest() -> tuple[int, Any] | None:
            saved = self.steps()
            step = next((step for step in reversed(saved) if self.intact(step)), None)
            if step is None and saved:
                raise CheckpointError(
                    f"workdir={self.directory.parent}: every checkpoint in it is damaged (steps {saved}); "
                    "delete its checkpoints folder to start again, or name another workdir"
                )
            if step is None:
                return None
            try:
                with _ONE_AT_A_TIME, _checkpointer() as checkpointer:
                    plain = checkpointer.restore(self.directory / str(step), jax.tree.map(_plain, like))
                return step, jax.tree.map(_like, like, plain)
            except (ValueError, KeyError, TypeError) as error:
                reason = str(error).splitlines()[0][:120]
                raise CheckpointError(
                    f"workdir={self.directory.parent}: checkpoint {step} does not fit this version's state ({reason}); "
                    "name another workdir"
                ) from None

        found = on_main(newest)
        # Every process passes arrays of the same shapes to from_main, so no step at all is -1.
        step = int(from_main(jnp.int32(-1 if found is None else found[0])))
        return None if step < 0 else (step, from_main(like if found is None else found[1]))

    def _manifest(self, step: int) -> pathlib.Path:
        return self.directory / f"{step}.json"


def _checksums(folder: pathlib.Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _checkpointer() -> ocp.StandardCheckpointer:
    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    # Orbax would wait for every process of the run, and only the main one ever comes here.
    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="main")
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def _plain(leaf: Any) -> np.ndarray:
    """A copy on the host; on the CPU a mere view would change with the donated buffer."""
    return np.array(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def _like(leaf: Any, plain: np.ndarray) -> jax.Array:
    if is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(plain), impl=jax.random.key_impl(leaf))
    # Orbax 0.12.8 restores the shape that was saved, whatever shape it is asked for.
    if plain.shape != leaf.shape:
        raise ValueError(f"shape {plain.shape} saved, {leaf.shape} asked")
    return jnp.asarray(plain, leaf.dtype)
