"""Trains a defence, attacks it with fresh attackers, and reports.

    python -m experiments.main --defense=funnel

trains on the embedded digits beside an undefended reference, previews an audit of both, prints the table and writes a page into
the run folder; about three minutes on two cores, and two more where the reference is not there yet. The same command again
resumes, or shows the finished run. SIGTERM saves and exits with code 75: run it again to go on.
"""

from pathlib import Path

from ani_jax.attacks.base import LEVELS
from ani_jax.data import catalog
from ani_jax.reporting.table import summary
from ani_jax.reporting.text import aligned
from ani_jax.training import processes
from experiments import flags, gate, machine, runs


def main(_: list[str]) -> None:
    """Runs the command that the flags describe."""
    if flags.FLAGS.list_datasets:
        print(aligned(catalog.table()))
        return
    config, asked = flags.from_flags(), gate.from_flags()
    given = machine.from_flags(config)
    folder = Path(flags.FLAGS.workdir or f"runs/{config.stem}-{config.defense}-{config.digest}")
    if processes.is_main() and not LEVELS[config.audit].plants:
        print(f"a preview, not evidence; that is: python -m experiments.audit --workdir={folder} --audit=standard")
    found = runs.execute(config, folder, flags.cache(), given, asked.check)
    if found:
        print(summary([run.evidence for run in found]))
        print(f"\nreport:    {folder / 'report.html'}\nreproduce: {flags.command(config, folder)}")
        asked.close([found[-1].evidence], folder)


if __name__ == "__main__":
    flags.define_run()
    flags.define(list_datasets=(bool, False, "Print the catalogue and stop."), **machine.OWN, **gate.OWN)
    flags.run(main)
