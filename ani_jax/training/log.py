"""What a run says while it trains: numbers are read one dispatch late, so that the device never waits for the host."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from ani_jax.training.dispatch import Outcome

OnEvent = Callable[[Mapping[str, Any]], None]
"""Receives plain dictionaries; "kind" says what they are."""
PATIENCE = 10
"""Dispatches in a row with a step that was skipped, after which training stops: nothing is being learnt."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and which quantity went bad."""


class Entry(NamedTuple):
    """What one dispatch left to be read.

    Attributes:
        step: the step that it ended at.
        phase: name of the phase.
        outcome: as it came from the devices.
        seen: further scalars, on one device.
        due: whether the log wants it.
    """

    step: int
    phase: str
    outcome: Outcome
    seen: Mapping[str, Array]
    due: bool


class Log:
    """Reads entries, sends "metrics" events, and stops a run that went bad.

    Args:
        on_event: receives the events.
        skip_nonfinite: steps that went bad had no effect, so a "skipped" event is all that they cause.
    """

    def __init__(self, on_event: OnEvent, skip_nonfinite: bool):
        self.on_event, self.skip_nonfinite = on_event, skip_nonfinite
        self.pending: Entry | None = None
        self.saved: int | None = None
        self.skipped = 0

    def put(self, entry: Entry) -> None:
        """Leaves an entry for the next :meth:`flush`."""
        self.pending = entry

    def flush(self) -> None:
        """Reads what is left to be read.

        Raises:
            TrainingError: a metric is not finite.
        """
        entry, self.pending = self.pending, None
        if entry is None:
            return
        if not read(entry.outcome.good):
            self._bad(read(entry.outcome.metrics), int(read(entry.outcome.step)))
            return
        self.skipped = 0
        if entry.due:
            values = read({**entry.outcome.metrics, **entry.seen})
            if not all(map(math.isfinite, values.values())):
                raise complaint(values, entry.step, self.saved)
            self.on_event({"kind": "metrics", "step": entry.step, "phase": entry.phase, "metrics": values})

    def _bad(self, values: Mapping[str, float], step: int) -> None:
        error = complaint(values, step, self.saved)
        self.skipped += 1
        if not self.skip_nonfinite or self.skipped > PATIENCE:
            raise error
        self.on_event({"kind": "skipped", "step": step, "reason": str(error)})


def read(tree: Any) -> Any:
    """Scalars on the host, as Python numbers; of arrays that are spread over devices, the first one's."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1)[0].item(), jax.device_get(jax.tree.map(_first, tree)))


def _first(leaf: Array) -> Array:
    return leaf.addressable_shards[0].data


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
    bad.sort(key=lambda name: (not name.startswith(("term/", "adversary/")), "/" not in name))
    known = (
        "no checkpoint was saved before it" if saved is None else f"the last good checkpoint is that of step {saved}"
    )
    return TrainingError(f"step {step}: {', '.join(bad)} not finite; {known}")
