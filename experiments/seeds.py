"""Summarises finished runs over seeds: means and paired differences from the undefended split, with a picture.

    python -m experiments.seeds --out=summary RUN [RUN ...]

Runs that differ in nothing but the seed are one variant. Writes summary.csv and summary.svg (utility against leakage, a point a
seed) into --out and prints the table.
"""

import pathlib

from absl import flags as absl_flags

from ani_jax.reporting import agreement, figures, seeds
from experiments import flags, runs


def main(argv: list[str]) -> None:
    """Groups the named run folders and writes the summary."""
    folders = [pathlib.Path(name) for name in argv[1:]]
    if not folders:
        flags.fail("argument RUN: name at least one run folder")
    out = pathlib.Path(absl_flags.FLAGS.out)
    cache = pathlib.Path(absl_flags.FLAGS.cache_dir).expanduser()
    try:
        found = [runs.load(folder) for folder in folders]
        variants: dict[str, list[seeds.Pair]] = {}
        for run in sorted(found, key=lambda run: run.config.train.seed):
            reference = runs.load(runs.reference_folder(run.config, cache)).evidence
            variants.setdefault(flags.variant(run.config), []).append((reference, run.evidence))
    except runs.WorkdirError as error:
        flags.fail(str(error))
    lines = seeds.lines(variants)
    out.mkdir(parents=True, exist_ok=True)
    runs.write(out / "summary.csv", seeds.as_csv(lines))
    runs.write(out / "summary.svg", figures.variants(variants).decode())
    told = agreement.lines([run.evidence for run in found])
    print("\n".join((seeds.table(lines), *told)))
    print(f"\nsummary: {out / 'summary.csv'}, {out / 'summary.svg'}")


if __name__ == "__main__":
    absl_flags.DEFINE_string("out", "summary", "Folder to write to.")
    absl_flags.DEFINE_string("cache_dir", "~/.cache/ani_jax", "Where the undefended references are.")
    flags.run(main)
