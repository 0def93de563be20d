"""A whole frontier: every defence at a grid of privacy weights and seeds, audited, as one picture of utility against leakage.

    python -m experiments.frontier --defenses=ani,funnel --weights=6 --seeds=3

Every point is a run folder of its own below --workdir; all members of a defence are trained by one compiled step and audited by
the same compiled attackers. The same command again goes on where it stopped. Writes frontier.html, .svg, .csv and .json.
"""

import hashlib
import pathlib
import signal
import sys

from absl import flags as absl_flags

from ani_jax.data.files import DataError
from ani_jax.evaluation.frontier import WORST, Frontier, Point
from ani_jax.frontier import sweep
from ani_jax.records import to_json
from ani_jax.reporting import frontier, frontier_page
from ani_jax.training.checkpoint import CheckpointError
from experiments import flags, folders, grid, machine, programs, runs

FLAGS = absl_flags.FLAGS
MARK = "command.txt"
"""The file that says which frontier a folder holds."""


def main(argv: list[str]) -> None:
    """Runs or resumes the frontier that the flags describe."""
    if len(argv) > 1:
        flags.fail(f"argument {argv[1]}: not understood; options are written --name=value")
    try:
        chosen = grid.configs(FLAGS.defenses)
        rows = grid.rows(chosen, FLAGS.weights, FLAGS.seeds, FLAGS.span)
        if FLAGS.group < 0 or (FLAGS.group > 1 and chosen[0].train.steps_per_dispatch > 1):
            raise ValueError(f"group={FLAGS.group}: must be 0 or more, and at most 1 with steps_per_dispatch above 1")
    except ValueError as error:
        flags.fail(f"flag --{error}")
    own = {name: FLAGS[name].value for name in ("weights", "seeds", "span", "group") if FLAGS[name].present}
    asked = {"defenses": ",".join(FLAGS.defenses), **own}
    mark = grid.command(chosen, asked, pathlib.Path()).rsplit(" --workdir=", 1)[0]
    name = hashlib.sha256(mark.encode()).hexdigest()[:10]
    folder = pathlib.Path(FLAGS.workdir or f"runs/frontier-{chosen[0].dataset}-{name}")
    cache = pathlib.Path(FLAGS.cache_dir).expanduser()
    programs.keep(cache)
    where = {name: FLAGS[name].value for name in ("data_dir", "manual_dir")}
    try:
        with machine.resumable(), folders.claimed(folder, MARK, mark, "frontier", "another frontier"):
            points = _points(rows, folder, cache, where, machine.Machine(stop=machine.Told(signal.SIGTERM)))
            places = {name: value for name, value in where.items() if value is not None}
            line = grid.command(chosen, {**asked, **places}, folder)
            _write(Frontier(chosen[0].dataset, chosen[0].audit, points), folder, line)
    except (runs.WorkdirError, DataError, CheckpointError) as error:
        flags.fail(f"flag --{error}" if isinstance(error, ValueError) else str(error))
    print(f"\nreport:    {folder / 'frontier.html'}\npoints:    {folder / 'frontier.csv'}\nreproduce: {line}")


def _points(
    rows: list[list[grid.Member]],
    folder: pathlib.Path,
    cache: pathlib.Path,
    where: dict[str, str | None],
    given: machine.Machine,
) -> tuple[Point, ...]:
    """Every point, references first; several members share a reference."""
    found: dict[tuple[str, int], Point] = {}
    done, total = 0, sum(map(len, rows))
    for row in rows:
        size = sweep.group_size(len(row), FLAGS.group, row[0].config.train.steps_per_dispatch)
        for points in grid.execute(row, size, folder, cache, where, given):
            found |= {(point.title, point.seed): point for point in points}
            done, last = done + 1, points[-1]
            leaked = last.leakage(WORST)
            said = (
                last.status if last.accuracy is None or leaked is None else f"{last.accuracy:.1%}, {leaked:.2f} leaks"
            )
            print(f"[{done}/{total}] {last.title}, seed {last.seed}: {said}", file=sys.stderr, flush=True)
    return tuple(sorted(found.values(), key=lambda point: bool(point.weights)))


def _write(found: Frontier, folder: pathlib.Path, line: str) -> None:
    """Prints the frontier's table and leaves everything in its folder; what has no point with a leakage has no picture."""
    print(frontier.table(found))
    runs.write(folder / "frontier.json", to_json(found))
    runs.write(folder / "frontier.csv", frontier.as_csv(found))
    if panels := frontier.panels(found):
        runs.write(folder / "frontier.svg", frontier_page.figure(panels).decode())
        runs.write(folder / "frontier.html", frontier_page.render(found, command=line))


if __name__ == "__main__":
    flags.define()
    absl_flags.DEFINE_list("defenses", ["ani", "funnel"], "What to compare, separated by commas.")
    absl_flags.DEFINE_integer("weights", 6, "Privacy weights of each defence: a logarithmic grid around its own.")
    absl_flags.DEFINE_integer("seeds", 3, "Seeds, counted from --seed, each with a split of its own.")
    absl_flags.DEFINE_float("span", 10.0, "Largest multiplier of the privacy weights; the smallest is its inverse.")
    absl_flags.DEFINE_integer("group", 0, "Members trained by one program: 1 on a CPU, all on an accelerator (0).")
    flags.run(main)
