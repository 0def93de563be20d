"""A frontier's grid: its members, each of them a run, and how a row of them is brought to its end."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags as absl_flags
from absl.testing import flagsaver

from ani_jax.defenses import registry
from ani_jax.evaluation.frontier import Point
from ani_jax.frontier import sweep
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.loop import Stopped, TrainingError
from ani_jax.training.phases import schedule
from experiments import flags, runs
from experiments.flags import RunConfig
from experiments.machine import Machine
from experiments.progress import Progress

UNSOUND = "unsound"
"""Mark of a member that was not finite when its group was trained."""
FOREIGN = ("defense", "utility_budget", "config")
"""Flags of a single run that a frontier has no use for."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One point of the grid: a run, and the multiplier that gave its privacy weights."""

    config: RunConfig
    multiplier: float
    weights: Mapping[str, float]

    @property
    def place(self) -> str:
        """Name of its run folder."""
        return f"{self.config.defense}-{self.config.digest}"

    @property
    def name(self) -> str:
        """What its defence is called; without protection, also by what makes it another client than a reference."""
        return named(self.config) if self.config.defense == "none" else self.config.defense

    def point(self, run: runs.Run) -> Point:
        """What the frontier keeps of the finished run."""
        return Point.of(run.evidence, self.name, self.multiplier, dict(self.weights))

    def failed(self, error: Exception) -> Point:
        """What it keeps of a run that could not be trained."""
        reason = f"not trained: {error}"
        return Point(self.name, self.multiplier, dict(self.weights), self.config.train.seed, status=reason)


def named(config: RunConfig) -> str:
    """What an undefended client is called: clients of another width, backbone or training have names of their own.

    Example:
        >>> named(RunConfig("none")), named(RunConfig("none", options={"steps": 500}))
        ('none', 'none --steps=500')
    """
    return flags.variant(RunConfig(config.defense, options=config.options, train=config.train))


def configs(names: Sequence[str]) -> list[RunConfig]:
    """The config of every defence by the command line; an option is given to the defences that have it.

    Raises:
        ValueError: a value out of range, or an option that none of the defences has.
    """
    if not names or len(set(names)) < len(names) or any(name not in registry.DEFENSES for name in names):
        raise ValueError(f"defenses={','.join(names)}: must be names, each once, out of {', '.join(registry.DEFENSES)}")
    if given := [name for name in FOREIGN if absl_flags.FLAGS[name].value is not None]:
        raise ValueError(f"{given[0]}={absl_flags.FLAGS[given[0]].value}: a frontier does not take it; see --defenses")
    owned = {name: set(registry.options(name)) for name in names}
    found = []
    for name in names:
        others = set().union(*owned.values()) - owned[name]
        with flagsaver.flagsaver(defense=name, **dict.fromkeys(others)):
            found.append(flags.from_flags())
    return found


def rows(chosen: Sequence[RunConfig], weights: int, seeds: int, span: float) -> list[list[Member]]:
    """The members of every seed and defence, seeds outermost: a frontier that is interrupted has whole seeds.

    A defence without a privacy weight has one point a seed.

    Args:
        chosen: one config a defence, of the first seed.
        weights: points of the grid of multipliers.
        seeds: how many, counted from the configs' own.
        span: see :func:`ani_jax.frontier.sweep.multipliers`.

    Raises:
        ValueError: an argument is out of range, or all privacy weights of a defence are 0.
    """
    if seeds < 1:
        raise ValueError(f"seeds={seeds}: must be at least 1")
    grid = sweep.multipliers(weights, span)
    return [_row(config, grid, seed) for seed in range(seeds) for config in chosen]


def _row(config: RunConfig, grid: Sequence[float], offset: int) -> list[Member]:
    # Weights do not depend on the data.
    defense = registry.DEFENSES[config.defense](**config.options)
    private = defense.weights.privacy
    if private and not any(config.options[name] for name in private):
        raise ValueError(f"defenses={config.defense}: {', '.join(private)} are 0, so there is nothing to scale")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=config.train.seed + offset))
    found = []
    for multiplier in grid if private else (1.0,):
        weights = sweep.scaled(defense, multiplier)
        found.append(Member(dataclasses.replace(config, options={**config.options, **weights}), multiplier, weights))
    return found


def execute(
    row: Sequence[Member],
    group: int,
    folder: pathlib.Path,
    cache: pathlib.Path,
    where: Mapping[str, Any],
    machine: Machine | None = None,
) -> Iterator[list[Point]]:
    """Brings the members of a row to their end, from wherever they stand.

    Args:
        row: members of one defence and seed.
        group: how many are trained by one program; 1 trains one after the other.
        folder: of the frontier.
        cache: where the undefended references are kept.
        where: see :func:`experiments.runs.execute`, like the machine.
        machine: a group is trained without checkpoints: told to end, it begins anew.

    Yields:
        The points of a member: its undefended reference, where it is not one itself, and its own.

    Raises:
        WorkdirError, DataError, CheckpointError, Stopped: see :func:`experiments.runs.execute`.
    """
    machine = machine or Machine()
    # Numbers differ in the last digits with the size of a group, so their runs are kept apart.
    place = folder / ("points" if group == 1 else f"points-of-{group}")
    if group > 1:
        _train(row, group, place, where, machine)
    for member in row:
        try:
            *references, own = runs.execute(member.config, place / member.place, cache, where, machine)
        except TrainingError as error:
            yield [member.failed(error)]
            continue
        known = [Point.of(run.evidence, named(run.config), 1.0, {}) for run in references]
        yield [*known, member.point(own)]


def _train(row: Sequence[Member], group: int, place: pathlib.Path, where: Mapping[str, Any], machine: Machine) -> None:
    """Trains a row in groups and leaves the last checkpoint of each member in its folder, unless all of them are there.

    A member that is not finite leaves a mark instead: it is trained alone later, which says what went wrong.
    """
    data, defense = runs.problem(row[0].config, where)
    total = schedule(defense)[-1][1]
    saved = [Checkpoints(place / member.place / "checkpoints", member.config.train.keep) for member in row]
    marks = [place / member.place / UNSOUND for member in row]
    done = [total in checkpoints.steps() or mark.exists() for checkpoints, mark in zip(saved, marks, strict=True)]
    if all(done):
        return
    with contextlib.ExitStack() as held:
        bars = []
        for member in row:
            held.enter_context(runs.claim(place / member.place, member.config, wait=False))
            bars.append(held.enter_context(Progress(place / member.place, f"{defense.name} ×{member.multiplier:g}")))

        def on_event(place: int, event: Mapping[str, Any]) -> None:
            bars[place](event)
            if machine.stop():
                raise Stopped("the training of a group, which begins anew")

        members = [dataclasses.replace(defense, **member.weights) for member in row]
        states = sweep.train_together(members, data, row[0].config.train, group, on_event)
        for checkpoints, mark, state, there in zip(saved, marks, states, done, strict=True):
            if state is None:
                mark.touch()
            elif not there:
                checkpoints.save(total, state)


def command(chosen: Sequence[RunConfig], asked: Mapping[str, Any], folder: pathlib.Path) -> str:
    """The command line that reproduces a frontier, without what is a default anyway.

    Args:
        chosen: see :func:`rows`.
        asked: flags of the frontier itself.
        folder: of the frontier.
    """
    parts = [f"--{name}={value}" for name, value in asked.items()]
    parts += dict.fromkeys(f"--{part}" for config in chosen for part in flags.variant(config).split(" --")[1:])
    if seed := chosen[0].train.seed:
        parts.append(f"--seed={seed}")
    return " ".join(["python -m experiments.frontier", *parts, f"--workdir={folder}"])
