"""What the benchmark measures, as tables, and the measuring of each row."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from experiments.benchmark.sides import Shape, Side
from experiments.benchmark.timing import Spread, measure, ratio

Variant = tuple[str, str]
"""A side and the name of a case."""
Note = Callable[[str], None]
"""Receives a line about what is going on."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the suite ``steps``.

    Attributes:
        case: name of the case on every side that has it.
        base: the case that it is held against on the same side, "" for none.
        goals: largest ratio to PyTorch that is asked for, by backbone; the backbones of the row.
        base_goal: largest ratio to the base that is asked for.
        sides: who has the case.
        base_sides: who has the base.
        change: of the shape.
    """

    case: str
    base: str = ""
    goals: Mapping[str, float | None] = dataclasses.field(default_factory=lambda: {"cnn": None})
    base_goal: float | None = None
    sides: tuple[str, ...] = ("ours", "stock", "torch")
    base_sides: tuple[str, ...] = ("ours", "torch")
    change: Mapping[str, int] = dataclasses.field(default_factory=dict)


BOTH = {"cnn": 1.0, "resnet": 1.1}
INVERSION = {"cnn": 0.5}
MATMUL = Entry("matmul", sides=("ours", "torch"), change={"count": 2048})
"""The machine's limit, which every row's arithmetic is held against."""
STEPS = {
    "plain": Entry("plain", goals=BOTH),
    "funnel": Entry("funnel", "funnel_base", BOTH, 1.15),
    "partition": Entry("partition", "plain", BOTH, 2.5),
    "ani": Entry("ani", "ani_base", {"cnn": 1.0}, 1.12),
    "dependence": Entry("dependence", "plain", {"cnn": None, "resnet": None}),
    "critic": Entry("critic", sides=("ours", "torch"), change={"batch": 256}),
    **{f"inversion_{count}": Entry("inversion", goals=INVERSION, change={"count": count}) for count in (1, 16, 64)},
    "decoder": Entry("decoder", goals={"cnn": 1.3}),
    "correlation": Entry(
        "correlation", "correlation_differences", {"cnn": None}, 0.2, ("ours", "torch"), ("ours",), {"count": 12_288}
    ),
    **{f"forward_{count}": Entry("forward", change={"batch": count}) for count in (1, 256)},
}


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of one entry.

    Attributes:
        name: of the row.
        shape: of the case.
        seconds: "SIDE case" -> the median of each round.
        ratios: what over what -> median and quartiles over rounds.
        goals: what over what -> the largest ratio that is asked for.
        facts: "SIDE case" -> numbers that are not times.
    """

    name: str
    shape: Shape
    seconds: Mapping[str, Sequence[float]]
    ratios: Mapping[str, Spread]
    goals: Mapping[str, float]
    facts: Mapping[str, Mapping[str, float]]

    def median(self, variant: str) -> float | None:
        """Seconds of a unit, None where the side did not take part."""
        return Spread.of(self.seconds[variant]).median if variant in self.seconds else None


@contextlib.contextmanager
def processes(names: Sequence[str], environment: Mapping[str, str]) -> Iterator[dict[str, Side]]:
    """A process for every side, ended in the end."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(Side(name, environment)) for name in names}


def step_row(name: str, entry: Entry, shape: Shape, sides: Mapping[str, Side], rounds: int, note: Note) -> Row:
    """Measures one entry on all sides that have it."""
    shape = dataclasses.replace(shape, **entry.change)
    variants = [(side, entry.case) for side in entry.sides if side in sides]
    if entry.base:
        variants += [(side, entry.base) for side in entry.base_sides if side in sides]
    for side, case in variants:
        note(f"{name}, {shape.backbone}: building {case} of {side}")
        sides[side].build(case, shape)
    timers = {(side, case): functools.partial(sides[side].run, case) for side, case in variants}
    seconds = measure(timers, rounds, functools.partial(_counted, note, f"{name}, {shape.backbone}", rounds))
    facts = {" ".join(one): sides[one[0]].facts(one[1]) for one in variants if one[0] == "ours"}
    for side in sides.values():
        side.forget()
    ratios, goals = {}, {}
    for over, under, goal in (
        (("ours", entry.case), ("torch", entry.case), entry.goals.get(shape.backbone)),
        (("stock", entry.case), ("torch", entry.case), None),
        (("ours", entry.case), ("stock", entry.case), None),
        (("ours", entry.case), ("ours", entry.base), entry.base_goal),
        (("torch", entry.case), ("torch", entry.base), None),
    ):
        if over in seconds and under in seconds:
            label = f"{' '.join(over)} / {' '.join(under)}"
            ratios[label] = ratio(seconds[over], seconds[under])
            goals |= {} if goal is None else {label: goal}
    return Row(name, shape, {" ".join(one): values for one, values in seconds.items()}, ratios, goals, facts)


def step_rows(
    names: Sequence[str],
    backbones: Sequence[str],
    shape: Shape,
    against: Sequence[str],
    environment: Mapping[str, str],
    rounds: int,
    note: Note,
) -> Iterator[Row]:
    """The suite ``steps``: the machine's limit, then every entry with every backbone that it has."""
    with processes(("ours", "stock", *against), environment) as sides:
        yield step_row("matmul", MATMUL, shape, sides, rounds, note)
        for backbone in backbones:
            for name in names:
                if backbone in STEPS[name].goals:
                    sized = dataclasses.replace(shape, backbone=backbone)
                    yield step_row(name, STEPS[name], sized, sides, rounds, note)


SCALING: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "batch": ("plain", "batch", (16, 32, 64, 128, 256)),
    "image": ("plain", "image", (16, 32, 64)),
    "members": ("members", "count", (1, 2, 4, 8)),
    "devices": ("devices", "count", (1, 2, 4, 8)),
    "points": ("frontier", "count", (1, 2, 4, 8)),
}
"""What grows -> the case, the field of its shape, and its values."""


def scaling_rows(
    names: Sequence[str], shape: Shape, environment: Mapping[str, str], rounds: int, note: Note
) -> Iterator[Row]:
    """The suite ``scaling``: the time of every value over that of the first, all in the same rounds."""
    for name in names:
        case, field, values = SCALING[name]
        with contextlib.ExitStack() as stack:
            timers = {}
            for value in values:
                note(f"{name}: building {value}")
                # A process has as many devices as it starts with, so each value has its own.
                virtual = _virtual(value) if name == "devices" else {}
                side = stack.enter_context(Side("ours", {**environment, **virtual}))
                side.build(case, dataclasses.replace(shape, **{field: value}))
                timers[f"{name} {value}"] = functools.partial(side.run, case)
            seconds = measure(timers, rounds, functools.partial(_counted, note, name, rounds))
        first = f"{name} {values[0]}"
        ratios = {f"{one} / {first}": ratio(taken, seconds[first]) for one, taken in seconds.items()}
        yield Row(name, shape, seconds, ratios, {}, {})


def _counted(note: Note, what: str, rounds: int, done: int) -> None:
    note(f"{what}: round {done} of {rounds}")


def _virtual(count: int) -> dict[str, str]:
    """A process with that many virtual devices; without NPROC they deadlock in a thread pool of two."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {"XLA_FLAGS": flags.strip(), "NPROC": "32"}


IMPORTS = {
    "ani_jax": "import ani_jax",
    "ani_jax.audit": "import ani_jax; ani_jax.audit",
    "jax, flax, optax": "import jax, flax, optax",
}
"""What is imported; public names resolve on first use, so the second is what a user of the audit waits for."""
START_GOALS = {"ani_jax / jax, flax, optax": 1.3}
FIRST_STEP = 8.0
"""Seconds from the start of the default command to its first training step, with a warm compilation cache."""


def start_rows(environment: Mapping[str, str], rounds: int, note: Note) -> Iterator[Row]:
    """The suite ``start``: what importing costs, and how long the default run takes to its first training step."""
    timers = {
        name: (lambda count, code=code: [_imported(code) for _ in range(count)]) for name, code in IMPORTS.items()
    }
    seconds = measure(timers, rounds, functools.partial(_counted, note, "import", rounds))
    *names, plain = IMPORTS
    ratios = {f"{name} / {plain}": ratio(seconds[name], seconds[plain]) for name in names}
    yield Row("import", Shape(), seconds, ratios, START_GOALS, {})
    first = {"first step": lambda count: [first_step(environment) for _ in range(count)]}
    seconds = measure(first, rounds, functools.partial(_counted, note, "first step", rounds), least=0.0)
    limits = {"first step / limit": Spread.of([one / FIRST_STEP for one in seconds["first step"]])}
    yield Row("first step", Shape(), seconds, limits, {"first step / limit": 1.0}, {})


def _imported(code: str) -> float:
    """Seconds that an import takes in a fresh process, the interpreter's own start left out."""
    timed = f"import time; started = time.perf_counter(); {code}; print(time.perf_counter() - started)"
    return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout)


def first_step(environment: Mapping[str, str], *options: str) -> float:
    """Seconds from the start of ``python -m experiments.main`` to the first step in its log; the run is then ended.

    Every step is logged, which changes none of the programs that are compiled.
    """
    with tempfile.TemporaryDirectory() as folder:
        places = [f"--{name}={folder}/{name}" for name in ("workdir", "cache_dir")]
        command = [sys.executable, "-m", "experiments.main", "--log_every=1", *places, *options]
        errors = pathlib.Path(folder) / "errors"
        with errors.open("wb") as file:
            started = time.perf_counter()
            run = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=file)
        try:
            while not any(log.stat().st_size for log in pathlib.Path(folder).rglob("metrics.jsonl")):
                if run.poll() is not None:
                    told = errors.read_text().strip()[-200:]
                    raise RuntimeError(f"python -m experiments.main ended before its first step: {told}")
                time.sleep(0.005)
            return time.perf_counter() - started
        finally:
            run.kill()
            run.wait()
