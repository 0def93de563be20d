"""A whole frontier: every defence at a grid of privacy weights and seeds, audited, as one picture of utility against leakage.

    python -m experiments.frontier --defenses=ani,funnel --weights=6 --seeds=3
    python -m experiments.frontier --depths=1,2,3

The second line cuts a plain model at several depths instead, and advises where to. Every point is a run folder of its own below
--workdir; members of a defence are trained by one compiled step and audited by the same compiled attackers. The same command
again goes on, and several at once share its points. Writes frontier.html, .svg, .csv and .json; of depths, report.html.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from ani_jax.config import FORMAT, RunConfig
from ani_jax.defenses import registry
from ani_jax.frontier import sweep
from ani_jax.records import Evidence
from ani_jax.reporting import agreement, frontier, frontier_page, page, splits
from ani_jax.reporting.frame import Frame
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.loop import Stopped, TrainingError
from ani_jax.training.phases import schedule
from experiments import flags, runs
from experiments.folders import Busy, held, write
from experiments.machine import Machine, Told
from experiments.progress import Progress, say

FLAGS = flags.FLAGS
OF_A_GRID = ("weights", "seeds", "span", "group")
"""Flags of a frontier of weights, beside the defences."""
UNSOUND = "unsound"
"""Mark of a member that was not finite when its group was trained."""


def main(_: list[str]) -> None:
    """Runs or resumes the frontier that the flags describe."""
    flags.refuse(("defense", "utility_budget", "config"), "a frontier does not take it; see --defenses")
    if FLAGS.depths is None:
        chosen = configs(FLAGS.defenses)
        rows = grid(chosen, FLAGS.weights, FLAGS.seeds, FLAGS.span)
        if FLAGS.group < 0 or (FLAGS.group > 1 and chosen[0].train.steps_per_dispatch > 1):
            raise ValueError(f"group={FLAGS.group}: must be 0 or more, and at most 1 with steps_per_dispatch above 1")
        work = functools.partial(weighed, rows)
        asked = ["defenses", *(name for name in OF_A_GRID if FLAGS[name].present)]
    else:
        flags.refuse(("defenses", *OF_A_GRID, "depth"), "does not go with --depths, which cuts a plain model")
        chosen, asked = [flags.from_flags("none")], ["depths"]
        work = functools.partial(cut, depths(chosen[0], FLAGS.depths))
    mark = command(chosen, [FLAGS[name].serialize() for name in asked])
    digest = hashlib.sha256(f"{FORMAT} {mark}".encode()).hexdigest()[:10]
    folder = Path(FLAGS.workdir or f"runs/frontier-{chosen[0].stem}-{digest}")
    line = " ".join([mark, *flags.folders(chosen[0], folder)])
    cache, machine = flags.cache(), Machine(stop=Told(signal.SIGTERM))
    # Held until it is marked, and no longer: points are claimed one by one.
    with held(
        folder, "frontier", mark, lambda there: "" if there == mark else "belongs to another frontier", wait=True
    ):
        pass
    work(folder, cache, machine, line)
    print(f"reproduce: {line}")


def command(chosen: Sequence[RunConfig], asked: Sequence[str]) -> str:
    """The command line of a frontier without its folders: what is asked of it, and of its members what is no default."""
    parts = dict.fromkeys(f"--{part}" for config in chosen for part in flags.variant(config).split(" --")[1:])
    seed = [f"--seed={chosen[0].train.seed}"] if chosen[0].train.seed else []
    return " ".join(["python -m experiments.frontier", *asked, *parts, *seed])


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

    def point(self, run: runs.Run) -> Frame:
        """What the frontier keeps of the finished run."""
        return frontier.audited(run.evidence, self.name, self.multiplier, self.weights, run.folder)

    def failed(self, error: Exception) -> Frame:
        """What it keeps of a run that could not be trained."""
        reason, seed = f"not trained: {error}", self.config.train.seed
        return frontier.point(self.name, self.multiplier, self.weights, seed, status=reason)


def named(config: RunConfig) -> str:
    """What an undefended client is called: clients of another width, backbone or training have names of their own."""
    return flags.variant(RunConfig(config.defense, options=config.options, train=config.train))


def configs(names: Sequence[str]) -> list[RunConfig]:
    """The config of every defence by the command line; an option is given to the defences that have it."""
    names = [*registry.DEFENSES] if [*names] == ["all"] else names
    if not names or len(set(names)) < len(names) or any(name not in registry.DEFENSES for name in names):
        raise ValueError(f"defenses={','.join(names)}: must be names, each once, out of {', '.join(registry.DEFENSES)}")
    owned = {name: set(registry.options(name)) for name in names}
    return [flags.from_flags(name, without=set().union(*owned.values()) - owned[name]) for name in names]


def grid(chosen: Sequence[RunConfig], weights: int, seeds: int, span: float) -> list[list[Member]]:
    """The members of every seed and defence, seeds outermost: a frontier that is interrupted has whole seeds.

    ``chosen`` has one config a defence, of the first seed. Each has ``weights`` points a seed: its own weights times 1/``span``
    to ``span``, or what else makes it stronger, each client then in a row of its own; one point where nothing does.
    """
    if seeds < 1:
        raise ValueError(f"seeds={seeds}: must be at least 1")
    multipliers, found = sweep.multipliers(weights, span), []
    for offset, config in itertools.product(range(seeds), chosen):
        defense, train = config.template(), dataclasses.replace(config.train, seed=config.train.seed + offset)
        private = ", ".join(defense.weights.privacy)
        if private and not any(config.options[name] for name in defense.weights.privacy):
            raise ValueError(f"defenses={defense.name}: {private} are 0, so there is nothing to scale")
        row = {}
        for multiplier in multipliers if sweep.scaled(defense, 1.0) else (1.0,):
            scaled = sweep.scaled(defense, multiplier)
            one = dataclasses.replace(config, train=train, options={**config.options, **scaled})
            row.setdefault(one.digest, Member(one, multiplier, scaled))  # Whole numbers may meet.
        found += [[*row.values()]] if private else [[one] for one in row.values()]
    return found


def execute(
    row: Sequence[Member], group: int, folder: Path, cache: Path, machine: Machine | None = None
) -> Iterator[list[Frame]]:
    """Brings the members of a row, which have one defence and seed, to their end, from wherever they stand.

    ``group`` of them are trained by one program, without checkpoints: told to end, a group begins anew. A group of 1 is a run.

    Yields:
        The points of a member: its undefended reference, where it is not one itself, and its own.
    """
    machine = machine or Machine()
    # Numbers differ in the last digits with the size of a group, so their runs are kept apart.
    place = folder / ("points" if group == 1 else f"points-of-{group}")
    if group > 1:
        train_in_groups(row, group, place, machine)
    for member in row:
        try:
            *references, own = runs.execute(member.config, place / member.place, cache, machine)
        except TrainingError as error:
            yield [member.failed(error)]
            continue
        known = [frontier.audited(run.evidence, named(run.config), 1.0, {}) for run in references]
        yield [*known, member.point(own)]


def train_in_groups(row: Sequence[Member], group: int, place: Path, machine: Machine) -> None:
    """Trains a row in groups and leaves the last checkpoint of each member in its folder, unless all of them are there.

    A member that is not finite leaves a mark instead: it is trained alone later, which says what went wrong.
    """
    (data, defense), train = runs.problem(row[0].config), row[0].config.train
    total = schedule(defense)[-1][1]
    saved = [Checkpoints(place / member.place / "checkpoints", train.keep) for member in row]
    marks = [place / member.place / UNSOUND for member in row]
    done = [total in checkpoints.steps() or mark.exists() for checkpoints, mark in zip(saved, marks, strict=True)]
    if all(done):
        return
    with contextlib.ExitStack() as held:
        bars = []
        for member in row:
            held.enter_context(runs.claim(place / member.place, member.config))
            bars.append(held.enter_context(Progress(place / member.place, f"{defense.name} ×{member.multiplier:g}")))

        def on_event(place: int, event: Mapping[str, Any]) -> None:
            bars[place](event)
            if machine.stop():
                raise Stopped("the training of a group, which begins anew")

        members = [dataclasses.replace(defense, **member.weights) for member in row]
        states = sweep.train_together(members, data, train, group, on_event)
        for checkpoints, mark, state, there in zip(saved, marks, states, done, strict=True):
            if state is None:
                mark.touch()
            elif not there:
                checkpoints.save(total, state)


def weighed(rows: list[list[Member]], folder: Path, cache: Path, machine: Machine, line: str) -> None:
    """Finds every point, references first, and leaves table, picture and numbers."""
    found, queue, done, first = [], [], 0, rows[0][0].config
    for row in rows:
        size = sweep.group_size(len(row), FLAGS.group, first.train.steps_per_dispatch)
        queue += [(part, size, machine) for part in ([[one] for one in row] if size == 1 else [row])]
    # What is trained alone is claimed alone. It grows by what another process is at, which is waited for at the end.
    for part, size, given in queue:
        try:
            taken = [*execute(part, size, folder, cache, given)]
        except Busy:
            queue.append((part, size, dataclasses.replace(machine, wait=True)))
            continue
        for points in taken:
            found += points
            done, last = done + 1, points[-1].iloc[0]
            leaked = frontier.leakages(points[-1])[frontier.WORST].item()
            known = pandas.notna([last.accuracy, leaked]).all()
            said = f"{last.accuracy:.1%}, {leaked:.2f} leaks" if known else last.status
            say(f"[{done}/{sum(map(len, rows))}] {last.title}, seed {last.seed}: {said}")
    # Several members share a reference.
    result = pandas.concat(found).drop_duplicates(["title", "seed", "measure"])
    result = result.sort_values("weights", key=lambda weights: weights != "", kind="stable", ignore_index=True)
    points = result.astype(object).where(result.notna(), None).to_dict("records")
    told = {"dataset": first.dataset, "level": first.audit}
    write(folder / "frontier.json", json.dumps({**told, "points": points}))
    write(folder / "frontier.csv", frontier.as_csv(result))
    # What has no point with a leakage has no picture.
    if len(frontier.means(result)):
        write(folder / "frontier.svg", frontier_page.figure(result).decode())
        write(folder / "frontier.html", frontier_page.render(result, command=line, **told))
    print(f"{frontier.table(result)}\n\nreport:    {folder / 'frontier.html'}\npoints:    {folder / 'frontier.csv'}")


def depths(config: RunConfig, asked: Sequence[str]) -> dict[str, RunConfig]:
    """A plain model's runs, cut at every depth, by name."""
    if not asked or not all(depth.isdigit() for depth in asked):
        raise ValueError(f"depths={','.join(asked)}: must be whole numbers separated by commas")
    options = [{**config.options, "depth": int(depth)} for depth in asked]
    return {f"depth {one['depth']}": dataclasses.replace(config, options=one) for one in options}


def cut(cuts: dict[str, RunConfig], folder: Path, cache: Path, machine: Machine, line: str) -> dict[str, Evidence]:
    """Trains and audits every cut, and leaves a line each, advice, and whether the criterion ranks them as attackers do."""
    found = {}
    for name, config in cuts.items():
        (run,) = runs.execute(config, folder / "points" / f"{config.defense}-{config.digest}", cache, machine)
        found[name] = dataclasses.replace(run.evidence, subject=name)
    told = "\n".join(filter(None, (splits.advice(found), *agreement.lines(list(found.values())))))
    write(folder / "report.html", page.render(list(found.values()), {}, command=line, config={}, provenance=told))
    print("\n\n".join(filter(None, (splits.table(found), told, f"report:    {folder / 'report.html'}"))))
    return found


if __name__ == "__main__":
    flags.define_run()
    flags.define(
        depths=(list, None, "Cut a plain model there instead: blocks of the backbone that run on the device."),
        defenses=(list, ["ani", "funnel"], "What to compare, separated by commas."),
        weights=(int, 6, "Privacy weights of each defence: a logarithmic grid around its own."),
        seeds=(int, 3, "Seeds, counted from --seed, each with a split of its own."),
        span=(float, 10.0, "Largest multiplier of the privacy weights; the smallest is its inverse."),
        group=(int, 0, "Members trained by one program: 1 on a CPU, all on an accelerator (0)."),
    )
    flags.run(main)
