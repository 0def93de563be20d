"""Flags about the machine: how work is spread, which processes take part, what a signal does. No part of a run's result."""

import dataclasses
import signal
from collections.abc import Callable
from types import FrameType

from absl.flags import FLAGS

from ani_jax.config import RunConfig
from ani_jax.training import processes
from ani_jax.training.devices import MODES, PLACEMENTS, Devices

OWN = {
    "parallel": (MODES, "auto", "How training is spread over devices; auto is pmap on accelerators."),
    "placement": (PLACEMENTS, "auto", "Where the training pictures lie."),
    "resume": (("auto", "must", "never"), "auto", "must: only go on with a run; never: only begin one."),
    "coordinator_address": (str, None, "host:port of process 0 of several; auto where the platform knows."),
    "num_processes": (int, None, "How many processes share the training."),
    "process_id": (int, None, "Which of them this is, counted from 0."),
}
"""The flags, see :func:`experiments.flags.define`."""
STOPPED = 75
"""Exit code of a run that was told to end (SIGTERM) and saved itself: "try again" in sysexits.h, the same command goes on."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a run is given to run on.

    ``resume`` "must" refuses a folder where nothing was begun, "never" one where something was. ``wait``: for who works in it.
    """

    devices: Devices = dataclasses.field(default_factory=Devices)
    resume: str = "auto"
    stop: Callable[[], bool] = lambda: False
    wait: bool = False


def from_flags(config: RunConfig) -> Machine:
    """Joins the other processes, if there are any, and says what a run is given, whose batches must be shared out evenly."""
    address, number, own = (FLAGS[name].value for name in ("coordinator_address", "num_processes", "process_id"))
    if address in (None, "auto"):
        for name, value in (("num_processes", number), ("process_id", own)):
            if value is not None:
                raise ValueError(f"{name}={value}: must be given together with --coordinator_address=HOST:PORT")
    elif number is None or own is None or not 0 <= own < number:
        raise ValueError(f"coordinator_address={address}: needs --num_processes=N and --process_id from 0 to N - 1")
    if address is not None:
        processes.join(address, number, own)
    devices = Devices(FLAGS.parallel, FLAGS.placement)
    for one in (config, config.reference()):
        devices.check(one.train.batch_size)
    return Machine(devices, FLAGS.resume, processes.preemption() if processes.count() > 1 else Told(signal.SIGTERM))


class Told:
    """Turns the first signal of a kind into a question; the second has its usual effect."""

    def __init__(self, kind: signal.Signals):
        def hear(number: int, frame: FrameType | None) -> None:
            self.told = True
            signal.signal(kind, self.usual)

        self.told = False
        self.usual = signal.signal(kind, hear)

    def __call__(self) -> bool:
        """Whether the signal came."""
        return self.told
