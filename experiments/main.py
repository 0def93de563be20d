"""Trains a defence, attacks it with fresh attackers, and reports.

    python -m experiments.main --defense=funnel

trains on the embedded digits beside an undefended reference, audits both, prints the table and writes report.html into the run
folder; about three minutes on two cores. The same command again resumes, or shows the finished run. SIGTERM saves and exits with
code 75: run it again to go on.
"""

import pathlib
import signal

from ani_jax.data import catalog
from ani_jax.data.files import DataError
from ani_jax.reporting.table import summary
from ani_jax.reporting.text import aligned
from ani_jax.training import processes
from ani_jax.training.checkpoint import CheckpointError
from ani_jax.training.loop import TrainingError
from experiments import flags, machine, programs, runs, together


def main(argv: list[str]) -> None:
    """Runs the command that the flags describe."""
    if len(argv) > 1:
        flags.fail(f"argument {argv[1]}: not understood; options are written --name=value")
    if flags.FLAGS.list_datasets:
        print(listing())
        return
    try:
        config, given = flags.from_flags(), machine.from_flags()
        for one in (config, config.reference()):
            given.devices.check(one.train.batch_size)
    except ValueError as error:
        flags.fail(f"flag --{error}")
    cache = pathlib.Path(flags.FLAGS.cache_dir).expanduser()
    folder = pathlib.Path(flags.FLAGS.workdir or f"runs/{config.dataset}-{config.defense}-{config.digest}")
    programs.keep(cache)
    where = {name: flags.FLAGS[name].value for name in ("data_dir", "manual_dir")}
    try:
        with machine.resumable():
            if given.common:
                together.train_together(config, folder, cache, where, given)
                # What is left, audit and report, is the main process's own.
                given = machine.Machine(stop=machine.Told(signal.SIGTERM))
            found = runs.execute(config, folder, cache, where, given) if processes.is_main() else []
    except (runs.WorkdirError, DataError, CheckpointError, TrainingError, processes.Elsewhere) as error:
        flags.fail(f"flag --{error}" if isinstance(error, ValueError) else str(error))
    if not found:
        return
    print(summary([run.evidence for run in found]))
    places = "".join(f" --{name}={value}" for name, value in where.items() if value is not None)
    print(f"\nreport:    {folder / 'report.html'}\nreproduce: {flags.command(config, folder)}{places}")


def listing() -> str:
    """The catalogue as an aligned table."""
    return aligned(catalog.table())


if __name__ == "__main__":
    flags.define()
    machine.define()
    flags.run(main)
