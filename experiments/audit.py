"""Audits a client that is there already: somebody's own function, or a finished run; nothing is trained.

    python -m experiments.audit --release=package.module:function --predict=package.module:function --dataset=digits
    python -m experiments.audit --workdir=RUN --audit=standard

The function takes a batch of images in [0, 1], or images and a key, and returns what leaves the device. Prints the table and
writes evidence.json and report.html into --workdir, for a run into its audits/BUDGET. The same command again resumes.
"""

import pathlib
from typing import Any

from absl import flags as absl_flags

from ani_jax.reporting.table import summary
from experiments import audits, flags, programs

FLAGS = absl_flags.FLAGS
OF_A_FUNCTION = ("predict", "dataset", "primary", "sensitive", "originals", "image_size", "seed")
"""Flags that a finished run has answered already."""


def main(argv: list[str]) -> None:
    """Audits what the flags name."""
    if len(argv) > 1:
        flags.fail(f"argument {argv[1]}: not understood; options are written --name=value")
    where = {name: FLAGS[name].value for name in ("data_dir", "manual_dir")}
    cache = pathlib.Path(FLAGS.cache_dir).expanduser()
    given: dict[str, Any] = {
        name: FLAGS[name].value for name in (*OF_A_FUNCTION, "audit") if FLAGS[name].value is not None
    }
    programs.keep(cache)
    try:
        audits.budget(given.get("audit", "quick"))
        if FLAGS.release is not None:
            tasks = {"sensitive": tuple(given["sensitive"])} if "sensitive" in given else {}
            config = audits.AuditConfig(FLAGS.release, **{**given, **tasks})
            folder = config.folder() if FLAGS.workdir is None else pathlib.Path(FLAGS.workdir)
            found = audits.of_function(config, folder, where)
        else:
            folder, found = audits.of_run(_run(given), given.get("audit"), cache, where)
    except ValueError as error:
        # Those of data, checkpoints and folders are among them, and begin with their flag too.
        flags.fail(f"flag --{error}")
    print(summary(found))
    print(f"\nreport: {folder / 'report.html'}")


def _run(given: dict[str, Any]) -> pathlib.Path:
    """The folder of a finished run; what the run has settled cannot be asked again."""
    if FLAGS.workdir is None:
        raise ValueError("release=: name a client as package.module:function, or a finished run as --workdir=RUN")
    settled = [name for name in OF_A_FUNCTION if name in given]
    if settled:
        raise ValueError(f"{settled[0]}={given[settled[0]]}: belongs to --release; a finished run has its own")
    return pathlib.Path(FLAGS.workdir)


if __name__ == "__main__":
    absl_flags.DEFINE_string("release", None, "The client, as package.module:function.")
    absl_flags.DEFINE_string("predict", None, "The provider's network, likewise (default: none, and no utility).")
    absl_flags.DEFINE_string("dataset", None, "What to attack on (default digits).")
    absl_flags.DEFINE_string("primary", None, "The task (default: the data set's own).")
    absl_flags.DEFINE_list(
        "sensitive", None, "The attributes to attack, separated by commas (default: the data set's own)."
    )
    absl_flags.DEFINE_integer(
        "originals", None, "Use at most so many of the pictures (default: all that fit into memory)."
    )
    absl_flags.DEFINE_integer("image_size", None, "Side of the images in pixels (default 32).")
    absl_flags.DEFINE_integer("seed", None, "Of split and audit (default 0).")
    absl_flags.DEFINE_string("audit", None, "A budget's name, or seconds (default: quick, or the run's own).")
    absl_flags.DEFINE_string("workdir", None, "Folder of the audit, or a finished run to audit again.")
    absl_flags.DEFINE_string("data_dir", None, "Where prepared data lies (default: that of tfds).")
    absl_flags.DEFINE_string("manual_dir", None, "Official files, to prepare data from that is not prepared yet.")
    absl_flags.DEFINE_string("cache_dir", "~/.cache/ani_jax", "Where undefended references and compiled programs are.")
    flags.run(main)
