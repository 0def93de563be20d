"""Advises where to cut a plain model: accuracy, leakage and client cost at several depths, and whether the criterion agrees.

    python -m experiments.splits --depths=1,2,3

trains the undefended split at every depth, audits each, and prints a line a depth and, with --audit=standard, the rank
correlation between the inversion-difficulty criterion and the attackers' error. Every depth is a run folder below --workdir;
report.html beside them shows all of them. Flags are those of experiments.main.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags as absl_flags

from ani_jax.records import Evidence
from ani_jax.reporting import agreement, page, splits
from ani_jax.training.loop import TrainingError
from experiments import flags, programs, runs


def main(argv: list[str]) -> None:
    """Trains and audits every cut."""
    if len(argv) > 1:
        flags.fail(f"argument {argv[1]}: not understood; options are written --name=value")
    values = absl_flags.FLAGS
    cache, out = pathlib.Path(values.cache_dir).expanduser(), pathlib.Path(values.workdir or "runs/splits")
    programs.keep(cache)
    try:
        found = cuts(
            flags.from_flags(),
            values.depths,
            out,
            cache,
            {name: values[name].value for name in ("data_dir", "manual_dir")},
        )
    except (ValueError, TrainingError) as error:
        flags.fail(f"flag --{error}" if isinstance(error, ValueError) else str(error))
    told = "\n".join(filter(None, (splits.advice(found), *agreement.lines(list(found.values())))))
    command = f"python -m experiments.splits --depths={','.join(values.depths)}"
    runs.write(out / "report.html", page.render(list(found.values()), {}, command=command, config={}, provenance=told))
    print("\n\n".join(filter(None, (splits.table(found), told, f"report: {out / 'report.html'}"))))


def cuts(
    config: flags.RunConfig, depths: Sequence[str], out: pathlib.Path, cache: pathlib.Path, where: Mapping[str, Any]
) -> dict[str, Evidence]:
    """The evidence of the undefended split at every depth, by name; trained and audited where it is not there yet.

    Raises:
        ValueError: a depth that the backbone does not have, another defence than none, or see ``runs.execute``.
        TrainingError: see ``training``.
    """
    if config.defense != "none":
        raise ValueError(f"defense={config.defense}: a plain model is cut here; leave the flag out")
    if not depths or not all(depth.isdigit() for depth in depths):
        raise ValueError(f"depths={','.join(depths)}: must be whole numbers separated by commas")
    # All of them are checked before the first is trained.
    configs = [dataclasses.replace(config, options={**config.options, "depth": int(depth)}) for depth in depths]
    found = {}
    for one in configs:
        name = f"depth {one.options['depth']}"
        (run,) = runs.execute(one, out / f"{one.dataset}-{one.digest}", cache, where)
        found[name] = dataclasses.replace(run.evidence, subject=name)
    return found


if __name__ == "__main__":
    flags.define()
    absl_flags.DEFINE_list("depths", ["1", "2", "3"], "Where to cut: blocks of the backbone that run on the device.")
    absl_flags.FLAGS.set_default("defense", "none")
    flags.run(main)
