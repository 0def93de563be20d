"""Measures our work beside PyTorch's, in turn within every round: medians, spread, the goals, and the distance to the limit.

    python -m experiments.benchmark --against=torch

times every case of --suite=steps with the cnn; --backbone=resnet takes about ten times as long. Ratios are ours over theirs,
lower is better; "stock" is our code with XLA's own convolution and pooling. --suite=scaling shows how a step grows, --suite=start
what a start costs. Prints tables and writes SUITE.json into --workdir.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import pathlib
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags as absl_flags

from ani_jax.reporting.text import aligned
from experiments import flags, process
from experiments.benchmark import suites
from experiments.benchmark.sides import Shape, SideError
from experiments.benchmark.suites import Row
from experiments.benchmark.timing import Spread
from experiments.folders import write

SUITES = ("steps", "scaling", "start")
BACKBONES = {"cnn": ("cnn",), "resnet": ("resnet",), "all": ("cnn", "resnet")}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        suite: one of ``SUITES``.
        against: "torch", or "" for ours alone.
        backbone: a key of ``BACKBONES``.
        cases: names of rows, all where there is none.
        rounds: how often everything has its turn.
        batch_size: images a step.
        width: channels of the edge's first convolution.
    """

    suite: str = "steps"
    against: str = ""
    backbone: str = "cnn"
    cases: tuple[str, ...] = ()
    rounds: int = 7
    batch_size: int = 128
    width: int = 64

    def __post_init__(self):
        for name in ("rounds", "batch_size", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.batch_size < 4:
            raise ValueError(f"batch_size={self.batch_size}: must be at least 4")
        for case in self.cases:
            if case not in self.allowed:
                raise ValueError(f"cases={case}: must be names out of {', '.join(self.allowed) or 'none'}")
        if self.against and importlib.util.find_spec("torch") is None:
            raise ValueError("against=torch: PyTorch is not installed; pip install ani-jax[bench]")

    @property
    def allowed(self) -> tuple[str, ...]:
        """Names of the suite's rows; those of ``start`` cannot be chosen."""
        return tuple({"steps": suites.STEPS, "scaling": suites.SCALING}.get(self.suite, ()))

    @property
    def shape(self) -> Shape:
        """Of the cases, but for what each changes."""
        return Shape(batch=self.batch_size, width=self.width)

    @property
    def command(self) -> str:
        """What reproduces the table."""
        default = Config()
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(default, field.name)
        }
        texts = [f"--{name}={','.join(value) if name == 'cases' else value}" for name, value in given.items()]
        return " ".join(["python -m experiments.benchmark", *texts])


def main(_: list[str]) -> None:
    """Runs the suite that the flags ask for."""
    values = absl_flags.FLAGS
    given: dict[str, Any] = {field.name: values[field.name].value for field in dataclasses.fields(Config)}
    config = Config(**{**given, "cases": tuple(given["cases"]), "against": given["against"] or ""})
    rows, out = [], pathlib.Path(values.workdir) / f"{config.suite}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        for row in measured(config, environment(pathlib.Path(values.cache_dir).expanduser())):
            rows.append(row)
            # A run that is ended early keeps what it measured.
            write(out, json.dumps(record(config, rows), indent=1, allow_nan=False))
    except (SideError, RuntimeError) as error:
        flags.fail(str(error))
    print(table(config, rows))
    print(f"\nresults:   {out}\nreproduce: {config.command}")


def environment(cache: pathlib.Path) -> dict[str, str]:
    """The variables with which a side keeps its compiled programs where the commands keep theirs."""
    settings = {name.upper(): str(value) for name, value in process.SETTINGS.items()}
    return {"JAX_COMPILATION_CACHE_DIR": str(process.programs(cache)), **settings}


def measured(config: Config, environment: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a suite, one after the other."""
    names, rounds = config.cases or config.allowed, config.rounds
    if config.suite == "scaling":
        return suites.scaling_rows(names, config.shape, environment, rounds, tell)
    if config.suite == "start":
        return suites.start_rows(environment, rounds, tell)
    against = (config.against,) if config.against else ()
    backbones = BACKBONES[config.backbone]
    return suites.step_rows(names, backbones, config.shape, against, environment, rounds, tell)


def tell(line: str) -> None:
    """Progress: one line that the next one replaces on a terminal."""
    terminal = sys.stderr.isatty()
    print(f"\r\033[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)


def record(config: Config, rows: Sequence[Row]) -> dict[str, Any]:
    """Everything that was measured, for JSON."""
    machine = {"processor": platform.processor() or platform.machine(), "cores": process.cores()}
    libraries = ("jax", config.against) if config.against else ("jax",)
    machine |= {name: importlib.metadata.version(name) for name in libraries}
    return {
        "command": config.command,
        "machine": {**machine, "system": platform.platform(), "python": platform.python_version()},
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def table(config: Config, rows: Sequence[Row]) -> str:
    """The rows as an aligned table; of the steps, the limit comes first."""
    if config.suite != "steps":
        lines = [("what", "seconds", "over", "ratio", "goal")]
        for row in rows:
            over = {
                name: next((label for label in row.ratios if label.startswith(f"{name} / ")), "")
                for name in row.seconds
            }
            lines += [
                (
                    name,
                    _number(row.median(name), 1),
                    label[len(name) + 3 :],
                    _shown(row.ratios.get(label)),
                    _goal(row, label),
                )
                for name, label in over.items()
            ]
        return aligned(lines)
    rate = limit(rows)
    head = ("case", "ms", "torch ms", "/ torch", "goal", "stock / torch", "/ stock", "/ base", "goal", "torch / base")
    lines = [(*head, "of limit", "torch", "GMAC", "XLA", "temporary MB")]
    return "\n".join((aligned([*lines, *(_line(row, rate) for row in rows)]), "", *notes(rows, rate)))


def limit(rows: Sequence[Row]) -> float:
    """Multiply-accumulates a second of the machine: what the faster library reaches in a large product."""
    row = rows[0]
    return max(row.shape.count**3 / Spread.of(seconds).median for seconds in row.seconds.values())


def _line(row: Row, rate: float) -> tuple[str, ...]:
    case = next(iter(row.seconds)).split()[1]
    ours, theirs = (row.median(f"{side} {case}") for side in ("ours", "torch"))
    facts = row.facts[f"ours {case}"]
    pieces = row.shape.count if case == "inversion" else 1
    macs = facts["macs"] / pieces
    ratios = {
        (over.split()[0], under.split()[0], over.split()[1] == under.split()[1]): (f"{over} / {under}", spread)
        for (over, under), spread in ((label.split(" / "), spread) for label, spread in row.ratios.items())
    }

    def shown(over: str, under: str, same: bool = True) -> tuple[str, str]:
        label, spread = ratios.get((over, under, same), ("", None))
        return _shown(spread), _goal(row, label)

    return (
        f"{row.name} ({row.shape.backbone})",
        _number(ours, 1e3),
        _number(theirs, 1e3),
        *shown("ours", "torch"),
        shown("stock", "torch")[0],
        shown("ours", "stock")[0],
        *shown("ours", "ours", same=False),
        shown("torch", "torch", same=False)[0],
        *("" if seconds is None else f"{macs / seconds / rate:.0%}" for seconds in (ours, theirs)),
        _number(macs, 1e-9),
        _number(facts["xla_flops"] / pieces / 2, 1e-9),
        _number(facts["temporary_bytes"], 1e-6),
    )


def notes(rows: Sequence[Row], rate: float) -> Iterable[str]:
    """What the table's columns mean, and the memory of two forms of one case."""
    yield f"ms: a step, or an image and iteration. limit: {rate / 1e9:.1f} GMAC/s, the faster library's large product."
    yield "GMAC: of the textbook's convolutions; XLA: its estimate of the compiled program, elementwise work too, loops once."
    yield "Ratios: median over rounds [quartiles]. base: the same networks, or the same number, without the case's own part."
    for row in rows:
        if len(row.facts) == 2 and row.name == "correlation":
            ours, differences = (facts["temporary_bytes"] for facts in row.facts.values())
            yield f"correlation: {ours / differences:.3f} of the memory of the difference tensor's form (goal 0.1)."


def _shown(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:.2f} [{spread.low:.2f}, {spread.high:.2f}]"


def _goal(row: Row, label: str) -> str:
    return f"{row.goals[label]:g}" if label in row.goals else ""


def _number(value: float | None, factor: float) -> str:
    return "" if value is None else f"{value * factor:.3g}"


if __name__ == "__main__":
    absl_flags.DEFINE_enum("suite", "steps", SUITES, "What to measure.")
    absl_flags.DEFINE_enum("against", None, ["torch"], "Whom to measure beside ours.")
    absl_flags.DEFINE_enum("backbone", "cnn", list(BACKBONES), "Networks of the steps.")
    absl_flags.DEFINE_list("cases", [], "Rows to measure, separated by commas (default all).")
    absl_flags.DEFINE_integer("rounds", Config.rounds, "How often everything has its turn.")
    absl_flags.DEFINE_integer("batch_size", Config.batch_size, "Images a step.")
    absl_flags.DEFINE_integer("width", Config.width, "Channels of the first convolution.")
    absl_flags.DEFINE_string("workdir", "runs/benchmark", "Folder to write to.")
    flags.define("cache_dir")
    flags.run(main)
