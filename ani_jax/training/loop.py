"""The training loop: draws batches and runs the step; callbacks do the rest."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array

from ani_jax.defenses.base import Defense, freeze
from ani_jax.losses.task import accuracy
from ani_jax.training.callbacks import Callback, Run, Stopped, TrainingError
from ani_jax.training.config import TrainConfig
from ani_jax.training.devices import Devices
from ani_jax.training.phases import enter, parts, schedule
from ani_jax.training.state import State, init
from ani_jax.training.step import Work
from ani_jax.types import Batch, Data

__all__ = ["Stopped", "TrainConfig", "TrainingError", "evaluate", "train"]


def train(
    defense: Defense,
    data: Data,
    config: TrainConfig,
    callbacks: Sequence[Callback] = (),
    devices: Devices = Devices(),  # noqa: B008
) -> State:
    """Trains a defence through all its phases.

    Args:
        defense: what to train.
        data: ``defend`` trains; callbacks may look at the rest.
        config: how.
        callbacks: who resumes and saves, listens, spends a utility budget, watches or stops, in any order; see
            :class:`ani_jax.training.callbacks.Callback`.
        devices: how the work is spread; in every process of a run the same, like all other arguments.

    Returns:
        The final state, or the one that a callback puts in its place; on one device it is bit-identical however often the run was
        killed and resumed.

    Raises:
        ValueError: the batch cannot be shared out over the devices, or a callback has nothing to work on.
        TrainingError: a loss or gradient is not finite. Checkpoints saved before stay.
        CheckpointError: checkpoints exist and none can be trusted.
        Stopped: a callback said so.
    """
    devices.check(config.batch_size)
    # frontier.sweep splits it alike: whoever is trained among others must see the same batches.
    init_key, data_key = jax.random.split(jax.random.key(config.seed))
    run = Run(defense, data, config, devices, callbacks, devices.scatter(init(defense, init_key)))
    # Only steps run inside the device axis; callbacks apply the defence to one device's arrays, where no such axis is.
    phases, spread_defense = schedule(defense), dataclasses.replace(defense, axis_name=devices.axis_name)
    total = phases[-1][1]
    with contextlib.ExitStack() as closing:
        # A stack closes every one, whatever another raises on closing; before start, which may fail as well.
        for callback in callbacks:
            closing.callback(callback.close)
        for callback in callbacks:
            callback.start(run)
        first, entered = int(run.state.step), -1
        run.tell({"kind": "start", "step": first, "total": total})
        plan = list(parts(phases, first, config))
        feeds = devices.feed(data.defend, data_key, config.batch_size, [(part.first, part.count) for part in plan])
        # Not strict: originals that lie on the devices are an endless feed.
        for part, feed in zip(plan, feeds):
            # Only where a phase begins: run.state may move the whole state between devices, there and back.
            if part.index > entered:
                run.state, entered = enter(run.state, part.index, part.phase, data), part.index
            work = Work(spread_defense, part.phase, config.batch_size, part.count, config.clip, config.skip_nonfinite)
            run.spread, outcome = devices.run(work, run.spread, feed, data_key, part.first)
            # The numbers of the dispatch before are read while this one is computed.
            run.flush()
            run.part = part
            run.leave(outcome, {name: value for callback in callbacks for name, value in callback.look(run).items()})
            for callback in callbacks:
                callback.step(run)
            if run.stopping:
                run.flush()
                raise Stopped(f"step {part.end} of {total}")
        run.flush()
        for callback in callbacks:
            callback.end(run)
    # After closing, so that whoever hears of the end finds everything on disk.
    run.tell({"kind": "end", "step": total, "total": total})
    return run.state


def evaluate(defense: Defense, state: State, batch: Batch, key: Array, chunk: int = 256) -> float:
    """Accuracy of the frozen client and server on a batch, in chunks; the metric is in [0, 1]."""
    release, predict = freeze(defense, state.params, state.statistics)
    correct = [
        _correct(release, predict, batch.image[start : start + chunk], batch.label[start : start + chunk], key)
        for start in range(0, len(batch.label), chunk)
    ]
    return float(sum(correct)) / len(batch.label)


# At module level: a release is a pytree with a static architecture, so all of one architecture share the program.
@jax.jit
def _correct(release: Any, predict: Any, image: Array, label: Array, key: Array) -> Array:
    return accuracy(predict(release(image, key)), label).sum()
