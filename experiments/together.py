"""Training by several processes: each run up to its last checkpoint, from which the main process then goes on alone."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from ani_jax.training import processes
from ani_jax.training.budget import Spend, UtilityBudget, Watch
from ani_jax.training.callbacks import Callback, Save, Stop, Tell
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.loop import train
from experiments import runs
from experiments.flags import RunConfig
from experiments.machine import Machine
from experiments.progress import Progress


def train_together(
    config: RunConfig, folder: pathlib.Path, cache: pathlib.Path, where: Mapping[str, Any] | None, machine: Machine
) -> None:
    """Trains a run and, before it, its undefended reference; afterwards the processes have left each other.

    The main process alone claims folders, logs and saves; the others need no common file system.

    Raises:
        Elsewhere: the main process met an error.
        WorkdirError, DataError, CheckpointError, TrainingError, Stopped: see :func:`experiments.runs.execute`.
    """
    place = runs.reference_folder(config, cache)
    if config.defense != "none":
        _train(config.reference(), place, None, where, machine, wait=True)
    _train(config, folder, place, where, machine, wait=False)
    processes.leave()


def _train(
    config: RunConfig,
    folder: pathlib.Path,
    reference: pathlib.Path | None,
    where: Mapping[str, Any] | None,
    machine: Machine,
    wait: bool,
) -> None:
    with contextlib.ExitStack() as held:
        processes.on_main(lambda: held.enter_context(runs.claim(folder, config, wait=wait)))
        if not wait:
            processes.on_main(lambda: runs.check_resume(folder, machine.resume))
        done = processes.from_main(jnp.bool_((folder / "evidence.json").exists()))
        if bool(done):
            return
        data, defense = runs.problem(config, where)
        saved = Checkpoints(folder / "checkpoints", config.train.keep)
        callbacks: list[Callback] = [Save(saved), Stop(machine.stop)]
        if processes.is_main():
            callbacks.append(Tell(held.enter_context(Progress(folder, config.defense))))
        if config.defense == "none":
            callbacks.append(Watch())
        if (utility := _budget(config, reference)) is not None:
            callbacks.append(Spend(utility, saved))
        train(defense, data, config.train, callbacks, machine.spread)


def _budget(config: RunConfig, reference: pathlib.Path | None) -> UtilityBudget | None:
    """The utility budget out of the reference's log, which the main process has."""
    if config.utility_budget is None or reference is None:
        return None
    lost = config.utility_budget
    found = processes.share(lambda: dataclasses.asdict(UtilityBudget.of(runs.log(reference), lost)))
    return UtilityBudget(**found)
