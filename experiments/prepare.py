"""Prepares a data set from its official files.

    python -m experiments.prepare --dataset=utkface --manual_dir=FOLDER

checks the files, leaves out and counts what cannot be used, and writes array_record files that any tfds reader opens, here
without TensorFlow. Interrupted, it leaves nothing half-valid; the same command again starts over, or shows what is there.
"""

import sys
from collections.abc import Mapping

from experiments import flags
from experiments.progress import watch

MANY = 12
"""A task with more classes is not listed class by class."""


def main(_: list[str]) -> None:
    """Prepares what the flags name."""
    dataset, manual_dir, data_dir = (flags.FLAGS[name].value for name in ("dataset", "manual_dir", "data_dir"))
    if dataset is None:
        raise ValueError("dataset=: name the data set to prepare")
    # tfds is heavy, and a mistake in the flags should not wait for it.
    from ani_jax.data import builders, catalog, pictures, prepared

    entry = next((entry for entry in catalog.ENTRIES if entry.name == dataset), None)
    if entry is not None and entry.prepared is None:
        print(f"{entry.name}: nothing to prepare, it {entry.obtain}")
        return
    name = dataset if entry is None or entry.prepared is None else entry.prepared
    try:
        done = builders.prepare(name, manual_dir, data_dir, watch)
    except KeyboardInterrupt:
        print("ani_jax: interrupted; nothing was kept", file=sys.stderr)
        raise SystemExit(130) from None
    sizes = ", ".join(f"{split} {size:,}" for split, size in done.sizes.items())
    skipped = ", ".join(f"{reason} {count:,}" for reason, count in done.skipped.items())
    print(f"{name}: {sizes}\nleft out: {skipped or 'nothing'}\nfolder: {done.folder}")
    if entry is not None and entry.spec is not None:
        found = pictures.balance(entry.spec, prepared.find(name, data_dir), (entry.primary, *entry.sensitive))
        print("\n".join(f"{task}: {describe(shares)}" for task, shares in found.items()))


def describe(shares: Mapping[str, float]) -> str:
    """The classes with their shares, or, where there are many, how many and the commonest."""
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    text = ", ".join(f"{name} {share:.1%}" for name, share in ranked[: 1 if len(ranked) > MANY else None])
    return f"{len(ranked)} classes, the commonest {text}" if len(ranked) > MANY else text


if __name__ == "__main__":
    flags.define("dataset", "manual_dir", "data_dir")
    flags.run(main)
