"""Prepares a data set from its official files.

    python -m experiments.prepare --dataset=utkface --manual_dir=FOLDER

checks the files, leaves out and counts what cannot be used, and writes array_record files that any tfds reader opens, here
without TensorFlow. Interrupted, it leaves nothing half-valid; the same command again starts over, or shows what is there.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import tqdm
from absl import flags as absl_flags

from ani_jax.data.files import DataError
from experiments import flags

MANY = 12
"""A task with more classes is not listed class by class."""

FLAGS = absl_flags.FLAGS


def main(argv: list[str]) -> None:
    """Prepares what the flags name."""
    if len(argv) > 1:
        flags.fail(f"argument {argv[1]}: not understood; options are written --name=value")
    if FLAGS.dataset is None:
        flags.fail("flag --dataset=: name the data set to prepare")
    # tfds is heavy, and a mistake in the flags should not wait for it.
    from ani_jax.data import builders, catalog, pictures, prepared

    entry = next((entry for entry in catalog.ENTRIES if entry.name == FLAGS.dataset), None)
    if entry is not None and entry.prepared is None:
        print(f"{entry.name}: nothing to prepare, it {entry.obtain}")
        return
    name = FLAGS.dataset if entry is None or entry.prepared is None else entry.prepared
    try:
        done = builders.prepare(name, FLAGS.manual_dir, FLAGS.data_dir, watch if sys.stderr.isatty() else None)
    except DataError as error:
        flags.fail(f"flag --{error}")
    except KeyboardInterrupt:
        print("ani_jax: interrupted; nothing was kept", file=sys.stderr)
        raise SystemExit(130) from None
    sizes = ", ".join(f"{split} {size:,}" for split, size in done.sizes.items())
    skipped = ", ".join(f"{reason} {count:,}" for reason, count in done.skipped.items())
    print(f"{name}: {sizes}\nleft out: {skipped or 'nothing'}\nfolder: {done.folder}")
    if entry is not None and entry.spec is not None:
        stored = prepared.find(name, FLAGS.data_dir)
        found = pictures.balance(entry.spec, stored, (entry.primary, *entry.sensitive))
        print("\n".join(f"{task}: {describe(shares)}" for task, shares in found.items()))


def describe(shares: Mapping[str, float]) -> str:
    """The classes with their shares, or, where there are many, how many and the commonest."""
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    text = ", ".join(f"{name} {share:.1%}" for name, share in ranked[: 1 if len(ranked) > MANY else None])
    return f"{len(ranked)} classes, the commonest {text}" if len(ranked) > MANY else text


def watch(items: Iterable[Any], title: str) -> Iterable[Any]:
    """Hangs a bar on a long loop."""
    return tqdm.tqdm(items, desc=title, leave=False)


if __name__ == "__main__":
    absl_flags.DEFINE_string("dataset", None, "What to prepare: a name in the catalogue, or of any tfds data set.")
    absl_flags.DEFINE_string("manual_dir", None, "Folder that holds the official files.")
    absl_flags.DEFINE_string("data_dir", None, "Where prepared data lies (default: that of tfds).")
    flags.run(main)
