"""Does the inversion-difficulty criterion predict attack success? Measured on finished runs; nothing is trained or attacked.

    python -m experiments.criterion RUN [RUN ...]

Prints a line a run and, over three or more, the rank correlation of every part of the criterion with the error of the strongest
reconstruction in the run's evidence. What was measured is kept in RUN/criterion, so the same command again only reads it.

With the little noise that a standard audit adds (0.1), every estimate on images of this size is saturated, and saturated
estimates rank nothing: here the noise is one standard deviation of z.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags as absl_flags

from ani_jax.defenses.base import freeze
from ani_jax.information.criterion import criterion
from ani_jax.information.critics import ESTIMATORS, Critics
from ani_jax.records import Criterion, Evidence, from_json, to_json
from ani_jax.reporting import agreement
from ani_jax.training.checkpoint import CheckpointError
from experiments import flags, programs, runs
from experiments.parts import Parts
from experiments.progress import Progress


def main(argv: list[str]) -> None:
    """Measures the runs named on the command line."""
    folders = [pathlib.Path(name) for name in argv[1:]]
    values = absl_flags.FLAGS
    if not folders:
        flags.fail("argument RUN: name at least one run folder")
    if not 0 < values.noise < float("inf"):
        flags.fail(f"flag --noise={values.noise}: must be above 0 and finite")
    programs.keep(pathlib.Path(values.cache_dir).expanduser())
    where = {name: values[name].value for name in ("data_dir", "manual_dir")}
    try:
        critics = Critics(values.estimator, values.critics, values.steps)
        found = measured(folders, critics, values.noise, where)
    except (ValueError, CheckpointError) as error:
        flags.fail(str(error))
    said = (*agreement.lines(list(found.values())), *(f"! {caveat}" for caveat in agreement.caveats(found)))
    print("\n".join((agreement.table(found), *said)))


def measured(
    folders: Sequence[pathlib.Path], critics: Critics, noise: float, where: Mapping[str, Any]
) -> dict[str, Evidence]:
    """The evidence of finished runs, with the criterion in it, by folder.

    Raises:
        WorkdirError: a folder that holds no finished run, or is in use.
        CheckpointError, DataError: see ``training``, ``data``.
    """
    # All of them are read before the first is measured.
    found = {str(folder): runs.load(folder) for folder in folders}
    return {
        name: dataclasses.replace(run.evidence, criterion=_of(run, critics, noise, where))
        for name, run in found.items()
    }


def _of(run: runs.Run, critics: Critics, noise: float, where: Mapping[str, Any]) -> Criterion:
    kept = Parts(run.folder / "criterion")
    name = hashlib.sha256(f"{critics!r} {noise}".encode()).hexdigest()[:16]
    with runs.claim(run.folder, run.config, wait=False), Progress(run.folder, run.config.defense) as progress:
        if name not in kept:
            progress({"kind": "attack_start", "name": "criterion", "total": 0})
            data, defense, state = runs.trained(run, where)
            release, _ = freeze(defense, state.params, state.statistics)
            kept[name] = to_json(
                criterion(jax.random.key(run.config.train.seed), release, data, critics, noise=noise, self_test=(2.0,))
            )
            progress({"kind": "attack_end", "name": "criterion"})
        return from_json(Criterion, kept[name])


if __name__ == "__main__":
    absl_flags.DEFINE_enum("estimator", Critics.estimator, ESTIMATORS, "Bound on I(x; z).")
    absl_flags.DEFINE_integer("critics", Critics.seeds, "Critics of every estimate.")
    absl_flags.DEFINE_integer("steps", 500, "Steps of every critic.")
    absl_flags.DEFINE_float("noise", 1.0, "Noise that is added to z, in standard deviations of it.")
    absl_flags.DEFINE_string("cache_dir", "~/.cache/ani_jax", "Where compiled programs are kept.")
    absl_flags.DEFINE_string("data_dir", None, "Where prepared data lies (default: that of tfds).")
    absl_flags.DEFINE_string("manual_dir", None, "Official files, to prepare data from that is not prepared yet.")
    flags.run(main)
