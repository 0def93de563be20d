"""Exports a finished run: its client for a device, its server for a provider, as files that run without this code.

    python -m experiments.export --workdir=RUN --output=DIR

Prints what is in the folder. ``ani_jax.deploy.artefact.load`` reads it.
"""

from pathlib import Path

from ani_jax.defenses.base import freeze
from ani_jax.deploy import artefact, export
from ani_jax.evaluation.cost import cost_card
from experiments import flags, runs
from experiments.runs import Run


def main(_: list[str]) -> None:
    """Exports what the flags name."""
    flags.cache()
    values = flags.FLAGS
    for name in ("workdir", "output"):
        if values[name].value is None:
            raise ValueError(f"{name}=: name a folder")
    run = flags.placed(runs.load(Path(values.workdir)))
    card = exported(run, Path(values.output))
    print(card)


def exported(run: Run, folder: Path) -> artefact.Card:
    """Writes the folder of a finished run."""
    data, defense, state = runs.trained(run)
    release, predict = freeze(defense, state.params, state.statistics)
    shape = tuple(data.test.image.shape[1:])
    cost = cost_card(release, shape)
    folder.mkdir(parents=True)
    low, high, levels = getattr(defense.client, "grid", (None, None, 0))
    features = export.feature_shape(release, shape)
    card = artefact.Card(
        defence=defense.name,
        dataset=data.name,
        classes=data.primary.class_names,
        image_shape=shape,
        noise="memoised" if release.memoised else "fresh" if release.stochastic else "none",
        key_words=export.key_words(release),
        cost=artefact.Cost(cost.parameters, cost.macs, 0, cost.bytes_raw),
        **artefact.wire(features, low, high, levels),
    )
    return export.write(folder, release, predict, card)


if __name__ == "__main__":
    flags.define("workdir", "data_dir", "manual_dir", "cache_dir", output=(str, None, "Folder to write to."))
    flags.run(main)
