"""Writes the report of finished runs anew, without training or attacking.

    python -m experiments.report RUN [RUN ...]

reads each run folder and writes report.html into the last one; runs are shown side by side, the undefended one as the reference.
"""

import pathlib

from ani_jax.reporting.table import summary
from experiments import flags, runs


def main(argv: list[str]) -> None:
    """Reports the run folders named on the command line."""
    folders = [pathlib.Path(name) for name in argv[1:]]
    if not folders:
        flags.fail("argument RUN: name at least one run folder")
    try:
        found = [runs.load(folder) for folder in folders]
        target = folders[-1] / "report.html"
        runs.write(target, runs.report(found))
    except runs.WorkdirError as error:
        flags.fail(str(error))
    print(summary([run.evidence for run in found]))
    print(f"\nreport: {target}")


if __name__ == "__main__":
    flags.run(main)
