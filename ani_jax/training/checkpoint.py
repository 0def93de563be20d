"""Checkpoints: one Orbax manager behind four methods, which keeps the newest steps and the best, each with checksums.

Orbax notices damaged metadata but not a flipped bit in an array file. So the SHA-256 of every file is written into a step just
before Orbax commits it, and a step whose files no longer match is passed over for the one before. This is the only file that
knows Orbax.

What is saved is one device's state as plain arrays, whatever spread the work, so it restores on any number of devices and
processes. The main process alone reads and writes; the others are told.
"""

import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from ani_jax.training.processes import from_main, is_key, is_main, on_main

MANIFEST = "manifest.json"
"""The file of a step that holds the checksums of all others below it."""
DROPPED = "dropped"
"""Where Orbax puts a step that is not kept, all of it at once: a step that is half deleted would be taken for a damaged one."""


class CheckpointError(ValueError):
    """No saved step can be trusted; the message names the folder and the way out."""


class _Alone(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Not asked: all processes must ask equally often (``processes.preemption``), and only the main one comes here."""
        del step
        return False


class Checkpoints:
    """The saved steps of one run; a save may go on in the background, and every other method waits for its end.

    Attributes:
        directory: where they live; created on first use.
        keep: how many of the newest steps stay on disk, beside the best.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 2):
        self.directory = pathlib.Path(directory).absolute()
        self.keep = keep
        self._step: int | None = None

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        self.directory.mkdir(parents=True, exist_ok=True)
        best = BestN(get_metric_fn=lambda told: told["rank"], n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            create=False,
            cleanup_tmp_directories=True,
            todelete_subdir=DROPPED,
            preservation_policy=AnyPreservationPolicy([LatestN(self.keep), best]),
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._sign),
        )
        if jax.process_count() > 1:
            # Orbax would wait for every process of the run.
            options.multiprocessing_options = ocp.options.MultiprocessingOptions(0, {0}, "main")
        return _Alone(self.directory, options=options)

    def save(self, step: int, state: Any, *, rank: Sequence[float] | None = None, wait: bool = True) -> None:
        """Writes a copy of a state, then drops the steps that are neither among the newest nor the best.

        Args:
            step: global step, the name of the checkpoint. Saving a step again replaces it.
            state: a pytree of arrays, which may be donated as soon as this returns.
            rank: of a state that is preferred to all before: the best is the highest in the order of tuples.
            wait: False writes in the background, and :meth:`wait` must be called in the end.

        Raises:
            OSError: this save failed, or one in the background before it.
        """
        self.wait()
        if is_main():
            if step in self._manager.all_steps():
                self._manager.delete(step)
            self._step, metrics = step, None if rank is None else {"rank": list(rank)}
            # Copied here and not in the background: the next step donates the state.
            items: dict[str, Any] = {"state": ocp.args.StandardSave(jax.tree.map(_plain, state))}
            if metrics is not None:
                items["metrics"] = ocp.args.JsonSave(metrics)
            self._manager.save(step, metrics=metrics, args=ocp.args.Composite(**items), force=True)
        if wait:
            self.wait()

    def _sign(self) -> None:
        # Orbax calls this when all is written, and then renames the folder: the step is there with its manifest or not at all.
        (folder,) = self.directory.glob(f"{self._step}.orbax-checkpoint-tmp*")
        (folder / MANIFEST).write_text(json.dumps(_checksums(folder), indent=1, sort_keys=True))

    def wait(self) -> None:
        """Returns once nothing is being written any more.

        Raises:
            OSError: the last save failed.
        """
        if self._step is not None:
            try:
                self._manager.wait_until_finished()
            finally:
                self._step = None
            shutil.rmtree(self.directory / DROPPED, ignore_errors=True)

    def steps(self) -> list[int]:
        """The steps that were saved to the end, oldest first; damaged ones included."""
        self.wait()
        return sorted(
            int(path.parent.name) for path in self.directory.glob(f"[0-9]*/{MANIFEST}") if path.parent.name.isdigit()
        )

    def intact(self, step: int) -> bool:
        """Whether every file of a saved step still has the checksum of its manifest."""
        self.wait()
        folder = self.directory / str(step)
        try:
            return json.loads((folder / MANIFEST).read_text()) == _checksums(folder)
        except (OSError, json.JSONDecodeError):
            return False

    def restore(self, like: Any, best: bool = False) -> tuple[int, Any] | None:
        """The newest intact step and its state.

        Args:
            like: a state of the same structure, shapes and types; only those are read.
            best: the newest of those with a rank, each of which was preferred to the ones before it.

        Returns:
            ``(step, state)``, or None where nothing was ever saved.

        Raises:
            CheckpointError: steps were saved but none of them is intact, or its structure is another one.
        """

        def newest() -> tuple[int, Any] | None:
            saved = [step for step in self.steps() if not best or (self.directory / str(step) / "metrics").exists()]
            step = next((step for step in reversed(saved) if self.intact(step)), None)
            if step is None and saved:
                raise CheckpointError(
                    f"workdir={self.directory.parent}: every checkpoint in it is damaged (steps {saved}); "
                    "delete its checkpoints folder to start again, or name another workdir"
                )
            if step is None:
                return None
            try:
                asked = ocp.args.Composite(state=ocp.args.StandardRestore(jax.tree.map(_plain, like)))
                return step, jax.tree.map(_like, like, self._manager.restore(step, args=asked)["state"])
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


def _checksums(folder: pathlib.Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file of what was saved; Orbax's own, on top, change with the commit."""
    files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


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
