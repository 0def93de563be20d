"""Trains a defence, attacks it with fresh attackers, and reports.

    python -m experiments.main --defense=funnel

trains on the embedded digits beside an undefended reference, audits both, prints the table and writes report.html into the run
folder; about two minutes on two cores. The same command again resumes, or shows the finished run.
"""

import os
import pathlib

import jax

from ani_jax.data import catalog
from ani_jax.data.files import DataError
from ani_jax.reporting.table import summary
from ani_jax.training.checkpoint import CheckpointError
from ani_jax.training.loop import TrainingError
from experiments import flags, runs


def main(argv: list[str]) -> None:
    """Runs the command that the flags describe."""
    if len(argv) > 1:
        flags.fail(f"argument {argv[1]}: not understood; options are written --name=value")
    if flags.FLAGS.list_datasets:
        print(listing())
        return
    try:
        config = flags.from_flags()
    except ValueError as error:
        flags.fail(f"flag --{error}")
    cache = pathlib.Path(flags.FLAGS.cache_dir).expanduser()
    folder = pathlib.Path(flags.FLAGS.workdir or f"runs/{config.dataset}-{config.defense}-{config.digest}")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    where = {name: flags.FLAGS[name].value for name in ("data_dir", "manual_dir")}
    try:
        found = runs.execute(config, folder, cache, where)
    except (runs.WorkdirError, DataError, CheckpointError, TrainingError) as error:
        flags.fail(f"flag --{error}" if isinstance(error, ValueError) else str(error))
    print(summary([run.evidence for run in found]))
    places = "".join(f" --{name}={value}" for name, value in where.items() if value is not None)
    print(f"\nreport:    {folder / 'report.html'}\nreproduce: {flags.command(config, folder)}{places}")


def listing() -> str:
    """The catalogue as an aligned table."""
    rows = catalog.table()
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


if __name__ == "__main__":
    flags.define()
    flags.run(main)
