"""The sides of a comparison: each in a process of its own, so that no library's threads disturb another's.

Only one side works at any time: the parent asks one for so many units of a case and waits for the seconds. This file imports
neither jax nor torch; a side's own process does.
"""

import contextlib
import dataclasses
import importlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np

from experiments import process
from experiments.benchmark.timing import repeat

SIDES = {
    "ours": "experiments.benchmark.cases:ours",
    "stock": "experiments.benchmark.cases:stock",
    "torch": "experiments.benchmark.peers.cases:peers",
}
"""Side -> the function that gives its cases, called in the side's process: name -> builder of a :class:`Case`."""

LEARNING_RATE = 1e-3
STEPS = 10_000
"""Steps of every schedule: no measurement reaches the end, where a rate of 0 would be no training any more."""
CEILING = 1.0
"""Of the hinge: above any reconstruction's error, so that the hinge never stops a gradient."""
PENALTY = 1.0
"""Weight of the distance-correlation term beside the plain task."""
ATTRIBUTES = 4
"""Classes of the attribute that partition hides."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """The size of a case, the same for every side.

    Attributes:
        backbone: "cnn" or "resnet".
        batch: images a step.
        width: channels of the edge's first convolution.
        image: side of the square colour images.
        classes: of the task.
        count: what else a case counts: images that are inverted, members, devices, points.
    """

    backbone: str = "cnn"
    batch: int = 128
    width: int = 64
    image: int = 32
    classes: int = 10
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Case:
    """One side's form of a case.

    Attributes:
        unit: does one unit of work, and returns when it is done.
        pieces: what a unit consists of (steps, image-iterations): times are per piece.
        facts: numbers that are not times, such as the multiply-accumulates of one compiled call.
    """

    unit: Callable[[], object]
    pieces: int = 1
    facts: Callable[[], Mapping[str, float]] = dict


Builders = Mapping[str, Callable[[Shape], Case]]


def pictures(count: int, shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random images (count, h, w, 3) in [0, 1], labels and attributes: for every side the same."""
    draw = np.random.default_rng(0)
    image = draw.random((count, shape.image, shape.image, 3), np.float32)
    return image, draw.integers(0, shape.classes, count), draw.integers(0, ATTRIBUTES, count)


def iterations(shape: Shape) -> int:
    """Of a descent that one unit of inversion makes: fewer where each takes long.

    Example:
        >>> iterations(Shape(count=1)), iterations(Shape(count=64))
        (50, 10)
    """
    return max(10, 50 // shape.count)


class SideError(Exception):
    """A side could not do what it was asked to; the message says which and why, in one line."""


class Side:
    """A process that builds cases and runs them when told to.

    Args:
        name: a key of ``SIDES``.
        environment: variables of the process, beside this one's.
    """

    def __init__(self, name: str, environment: Mapping[str, str] | None = None):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(SIDES[name], theirs), daemon=True)
        with _environment(environment or {}):
            self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join()

    def build(self, case: str, shape: Shape) -> None:
        """Builds a case, to be run until :meth:`forget`."""
        self._ask("build", case, shape)

    def facts(self, case: str) -> dict[str, float]:
        """What is known of a case without running it."""
        return self._ask("facts", case)

    def run(self, case: str, count: int) -> Sequence[float]:
        """Runs so many units of a case; the seconds per piece of each."""
        return self._ask("run", case, count)

    def forget(self) -> None:
        """Drops all cases."""
        self._ask("forget")

    def _ask(self, *request: Any) -> Any:
        try:
            self._pipe.send(request)
            good, answer = self._pipe.recv()
        except (EOFError, OSError):
            raise SideError(f"{self.name}: its process ended while it was asked to {request[0]}") from None
        if not good:
            raise SideError(f"{self.name}: {answer}")
        return answer


class _Cases:
    """What a side's process holds."""

    def __init__(self, builders: Builders):
        self.builders, self.built = builders, {}

    def build(self, name: str, shape: Shape) -> None:
        self.built[name] = self.builders[name](shape)

    def facts(self, name: str) -> dict[str, float]:
        return dict(self.built[name].facts())

    def run(self, name: str, count: int) -> list[float]:
        case = self.built[name]
        return [seconds / case.pieces for seconds in repeat(case.unit, count)]

    def forget(self) -> None:
        self.built.clear()


def _serve(source: str, pipe: Connection) -> None:
    """Answers until the parent hangs up, or is gone."""
    # For every side alike, as the commands do.
    process.keep_memory()
    cases = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            name, *arguments = pipe.recv()
            try:
                if cases is None:
                    module, function = source.split(":")
                    cases = _Cases(getattr(importlib.import_module(module), function)())
                answer = (True, getattr(cases, name)(*arguments))
            except Exception as error:
                answer = (False, " ".join(f"{type(error).__name__}: {error}".split()))
            pipe.send(answer)


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """A process that is started inside has these variables."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
