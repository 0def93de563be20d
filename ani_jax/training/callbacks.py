"""What happens around the steps of a run: the run as callbacks see it, their one protocol, and those of general use."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Array

from ani_jax.defenses.base import Defense
from ani_jax.training import processes
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.config import TrainConfig
from ani_jax.training.devices import Devices, read
from ani_jax.training.phases import Part
from ani_jax.training.state import State
from ani_jax.training.step import Outcome
from ani_jax.types import Data

OnEvent = Callable[[Mapping[str, Any]], None]
"""Receives plain dictionaries; "kind" says what they are."""
PATIENCE = 10
"""Dispatches in a row with a step that was skipped, after which training stops: nothing is being learnt."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and which quantity went bad."""


class Stopped(Exception):
    """Training was asked to stop and did, with everything saved; the message says at which step."""


@dataclasses.dataclass
class Run:
    """A run under way: what a callback may look at, and change.

    Attributes:
        defense: what is trained.
        data: what it is trained on.
        config: how.
        devices: how the work is spread.
        callbacks: all of them.
        spread: the state as it lies on the devices; :attr:`state` is what a callback reads.
        part: the newest dispatch; there is none in ``start``.
        saved: step of the newest checkpoint, for whoever must say where to go on from.
        stopping: set by a callback that wants the run to end after this dispatch.
        rank: set by a callback that prefers this state to all before: it is saved as ``Checkpoints.save`` says.
    """

    defense: Defense
    data: Data
    config: TrainConfig
    devices: Devices
    callbacks: Sequence["Callback"]
    spread: State
    part: Part = dataclasses.field(init=False)
    saved: int | None = None
    stopping: bool = False
    rank: Sequence[float] | None = None
    _unread: tuple[Part, Outcome, Mapping[str, Array]] | None = None
    _skipped: int = 0

    @property
    def state(self) -> State:
        """The state as one device's arrays, to be read at once: the next dispatch consumes them."""
        return self.devices.gather(self.spread)

    @state.setter
    def state(self, state: State) -> None:
        self.spread = self.devices.scatter(state)

    def change(self, **fields: Any) -> None:
        """Gives fields of the state other values, the same in every process."""
        self.spread = dataclasses.replace(self.spread, **self.devices.scatter(fields))

    def tell(self, event: Mapping[str, Any]) -> None:
        """Passes an event on to every callback."""
        for callback in self.callbacks:
            callback.event(event)

    def leave(self, outcome: Outcome, seen: Mapping[str, Array]) -> None:
        """Leaves the newest dispatch's numbers for the next :meth:`flush`, so that the device never waits for the host."""
        self._unread = (self.part, outcome, seen)

    def flush(self) -> None:
        """Reads the numbers that are left to be read, and tells them where they are due.

        Raises:
            TrainingError: one of them is not finite.
        """
        if self._unread is None:
            return
        (part, outcome, seen), self._unread = self._unread, None
        # Asked even where no log is due: whatever follows a bad step is built on it.
        if not read(outcome.good):
            error = complaint(read(outcome.metrics), step := int(read(outcome.step)), self.saved)
            self._skipped += 1
            if not self.config.skip_nonfinite or self._skipped > PATIENCE:
                raise error
            self.tell({"kind": "skipped", "step": step, "reason": str(error)})
            return
        self._skipped = 0
        if part.due(self.config.log_every):
            values = read({**outcome.metrics, **seen})
            # The device vouched for the step's numbers alone; what callbacks saw beside them must be finite too.
            if not all(map(math.isfinite, values.values())):
                raise complaint(values, part.end, self.saved)
            self.tell({"kind": "metrics", "step": part.end, "phase": part.phase.name, "metrics": values})


class Callback:
    """What may happen around the steps; every method does nothing until it is overridden.

    The loop calls ``start`` of all; after each dispatch ``look`` of all and then ``step`` of all; at last ``end`` of all and
    ``close`` of all, whatever the others raise. So it does not matter in which order callbacks are given.
    """

    def start(self, run: Run) -> None:
        """Before the first step; may put another state in the place of the fresh one."""

    def look(self, run: Run) -> Mapping[str, Array]:
        """After every dispatch; may change the state or stop the run. Returns scalars to be logged beside the step's."""
        del run
        return {}

    def step(self, run: Run) -> None:
        """After every dispatch, once all have looked: the state and the log are what they will be; for saving them."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Something is told: "start", "metrics" (every ``log_every`` steps), "skipped", "end", or what a callback tells."""

    def end(self, run: Run) -> None:
        """After the last step; may put another state in the place of the last one."""

    def close(self) -> None:
        """Always at last, after an error too."""


class Save(Callback):
    """Goes on from the newest intact checkpoint where there is one, and saves every ``checkpoint_every`` steps and at the end.

    What a callback prefers is saved too. Tells "checkpoint".

    Args:
        checkpoints: where; in several processes the main one's.
    """

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    def start(self, run: Run) -> None:
        """Resumes."""
        if (found := self.checkpoints.restore(run.state)) is not None:
            run.saved, run.state = found

    def step(self, run: Run) -> None:
        """Saves in the background, where it is due, preferred, or the run stops here."""
        if run.part.due(run.config.checkpoint_every) or run.stopping or run.rank is not None:
            # What was measured up to a checkpoint is told before it: a run resumed there has the same log.
            run.flush()
            self.checkpoints.save(run.part.end, run.state, rank=run.rank, wait=False)
            run.saved, run.rank = run.part.end, None
            run.tell({"kind": "checkpoint", "step": run.saved})

    def close(self) -> None:
        """Returns once everything is on disk."""
        self.checkpoints.wait()


class Tell(Callback):
    """Passes events on to a listener, in the main process alone.

    Args:
        on_event: the listener.
    """

    def __init__(self, on_event: OnEvent):
        self.on_event = on_event

    def event(self, event: Mapping[str, Any]) -> None:
        """Passes it on."""
        if processes.is_main():
            self.on_event(event)


class Stop(Callback):
    """Ends the run once it is told to; where a :class:`Save` is given, with a last checkpoint.

    Args:
        told: asked after every dispatch, and in every process as often.
    """

    def __init__(self, told: Callable[[], bool]):
        self.told = told

    def look(self, run: Run) -> Mapping[str, Array]:
        """Asks."""
        # Asked first, whatever is known: several processes count their questions, so all must ask equally often.
        run.stopping = self.told() or run.stopping
        return {}


def complaint(values: Mapping[str, float], step: int, saved: int | None) -> TrainingError:
    """What to say of a step that went bad: which quantities, causes before sums, and where to go on from.

    Args:
        values: the step's metrics.
        step: its number.
        saved: newest checkpoint before it, None where there is none.

    Example:
        >>> str(complaint({"loss": float("inf"), "term/task": 0.3, "term/beta": float("inf")}, 7, 5))
        'step 7: term/beta, loss not finite; the last good checkpoint is that of step 5'
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    # A sum is bad because a part of it is: terms and adversaries first, then the norms of groups, totals last.
    bad.sort(key=lambda name: (not name.startswith(("term/", "adversary/")), "/" not in name))
    known = (
        "no checkpoint was saved before it" if saved is None else f"the last good checkpoint is that of step {saved}"
    )
    return TrainingError(f"step {step}: {', '.join(bad)} not finite; {known}")
