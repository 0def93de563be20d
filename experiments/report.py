"""Reports finished runs, without training or attacking.

    python -m experiments.report RUN [RUN ...]
    python -m experiments.report --by=seed --out=summary RUN [RUN ...]
    python -m experiments.report --by=criterion RUN [RUN ...]

The first writes report.html into the last folder: runs side by side, the undefended one as the reference. The second takes runs
that differ in nothing but the seed as one variant: means and paired differences from the undefended split, as a table and in
--out. The third measures the inversion-difficulty criterion, once, and says over three runs or more whether its parts rank
clients as the error of the strongest reconstruction does. With the little noise that a standard audit adds (0.1), every estimate
on images of this size is saturated, and ranks nothing: here the noise is one standard deviation of z.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax

from ani_jax.defenses.base import freeze
from ani_jax.information.criterion import criterion
from ani_jax.information.critics import ESTIMATORS, Critics
from ani_jax.records import Criterion, Evidence, from_json, to_json
from ani_jax.reporting import agreement, figures, seeds
from ani_jax.reporting.table import summary
from experiments import flags, gate, runs
from experiments.folders import Parts, claim, write
from experiments.progress import Progress

FLAGS = flags.FLAGS
BY = {"run": tuple(gate.OWN), "seed": ("out",), "criterion": ("estimator", "critics", "steps", "noise")}
"""What runs are reported by, and the flags that go with it."""


def main(names: list[str]) -> None:
    """Reports the run folders named on the command line."""
    others = [name for by, own in BY.items() if by != FLAGS.by for name in own]
    flags.refuse(others, f"does not go with --by={FLAGS.by}")
    critics = Critics(FLAGS.estimator, FLAGS.critics, FLAGS.steps)
    if not 0 < FLAGS.noise < float("inf"):
        raise ValueError(f"noise={FLAGS.noise}: must be above 0 and finite")
    asked = gate.from_flags()
    # All of them are read before the first is reported.
    found, cache = [runs.load(Path(name)) for name in names], flags.cache()
    if FLAGS.by == "run":
        runs.report(found)
        print(f"{summary([run.evidence for run in found])}\n\nreport: {found[-1].folder / 'report.html'}")
        asked.close([run.evidence for run in found], found[-1].folder)
    elif FLAGS.by == "seed":
        by_seed(found, cache, Path(FLAGS.out))
    else:
        measured = {str(run.folder): with_criterion(run, critics, FLAGS.noise) for run in map(flags.placed, found)}
        said = (*agreement.lines(list(measured.values())), *(f"! {one}" for one in agreement.caveats(measured)))
        print("\n".join((agreement.table(measured), *said)))


def by_seed(found: Sequence[runs.Run], cache: Path, out: Path) -> None:
    """Groups runs by what they are called without their seed, and writes the summary."""
    variants: dict[str, list[seeds.Pair]] = {}
    for run in sorted(found, key=lambda run: run.config.train.seed):
        reference = runs.load(runs.reference_folder(run.config, cache)).evidence
        variants.setdefault(flags.variant(run.config), []).append((reference, run.evidence))
    lines = seeds.lines(variants)
    out.mkdir(parents=True, exist_ok=True)
    write(out / "summary.csv", lines.to_csv(index=False))
    write(out / "summary.svg", figures.variants(variants).decode())
    told = agreement.lines([run.evidence for run in found])
    print("\n".join((seeds.table(lines), *told, f"\nsummary: {out / 'summary.csv'}, {out / 'summary.svg'}")))


def with_criterion(run: runs.Run, critics: Critics, noise: float) -> Evidence:
    """The evidence of a finished run with the criterion in it, which is measured once for every setting."""
    kept = Parts(run.folder / "criterion")
    name = hashlib.sha256(f"{critics!r} {noise}".encode()).hexdigest()[:16]
    with claim(run.folder, run.config), Progress(run.folder, run.config.defense) as progress:
        if name not in kept:
            progress({"kind": "attack_start", "name": "criterion", "total": 0})
            (data, defense, state), key = runs.trained(run), jax.random.key(run.config.train.seed)
            release, _ = freeze(defense, state.params, state.statistics)
            kept[name] = to_json(criterion(key, release, data, critics, noise=noise, self_test=(2.0,)))
        return dataclasses.replace(run.evidence, criterion=from_json(Criterion, kept[name]))


if __name__ == "__main__":
    flags.define(
        "data_dir",
        "manual_dir",
        "cache_dir",
        by=(BY, "run", "What to put side by side."),
        out=(str, "summary", "Folder that a summary by seed is written to."),
        estimator=(ESTIMATORS, Critics.estimator, "Bound on I(x; z)."),
        critics=(int, Critics.seeds, "Critics of every estimate."),
        steps=(int, 500, "Steps of every critic."),
        noise=(float, 1.0, "Noise that is added to z, in standard deviations of it."),
        **gate.OWN,
    )
    flags.run(main, "RUN")
