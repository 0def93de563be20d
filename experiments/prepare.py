"""Prepares a data set from its official files, or makes one that has none.

    python -m experiments.prepare --dataset=utkface --manual_dir=FOLDER

checks the files, leaves out and counts what cannot be used, and writes array_record files that any tfds reader opens, here
without TensorFlow. Interrupted, it leaves nothing half-valid; the same command again starts over, or shows what is there.
"""

import sys

from experiments import flags
from experiments.progress import watch


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
    sizes = ", ".join((*(f"{split} {size:,}" for split, size in done.sizes.items()), *filter(None, [done.made_by])))
    skipped = ", ".join(f"{reason} {count:,}" for reason, count in done.skipped.items())
    print(f"{name}: {sizes}\nleft out: {skipped or 'nothing'}\nfolder: {done.folder}")
    if entry is not None and entry.spec is not None:
        found = pictures.balance(entry.spec, prepared.find(name, data_dir), (entry.primary, *entry.sensitive))
        for task, shares in found.items():
            first, *more = (f"{name} {share:.1%}" for name, share in sorted(shares.items(), key=lambda item: -item[1]))
            # Twelve classes still fit into a line.
            told = f"{len(shares)} classes, the commonest {first}" if len(shares) > 12 else ", ".join((first, *more))
            print(f"{task}: {told}")


if __name__ == "__main__":
    flags.define("dataset", "manual_dir", "data_dir")
    flags.run(main)
