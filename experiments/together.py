"""Training by several processes: each run up to its last checkpoint, from which the main process then goes on alone."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from ani_jax.training import processes
from ani_jax.training.budget import Spend, UtilityBudget, Watch
from ani_jax.training.callbacks import Save, Stop, Tell
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
        if processes.share(lambda: (folder / "evidence.json").exists()):
            return
        data, defense = runs.problem(config, where)
        saved = Checkpoints(folder / "checkpoints", config.train.keep)
        callbacks = [Save(saved), Tell(held.enter_context(Progress(folder, config.defense))), Stop(machine.stop)]
        if config.defense == "none":
            callbacks.append(Watch())
        lost = config.utility_budget
        if lost is not None and reference is not None:
            found = processes.share(lambda: dataclasses.asdict(UtilityBudget.of(runs.log(reference), lost)))
            callbacks.append(Spend(UtilityBudget(**found), saved))
        train(defense, data, config.train, callbacks, machine.devices)
