"""What does an attacker see? Originals of every class beside the strongest reconstructions from finished runs.

    python -m docs.examples.pictures RUN RUN RUN --pictures=20 --data_dir=DATA --output=FILE.png

Every run's client is attacked once more, by the decoders of a level alone, which takes about ten minutes of a core a run at
"standard": an audit keeps eight of its pictures.
"""

import itertools
from pathlib import Path

import numpy as np

from ani_jax.attacks.base import LEVELS, families
from ani_jax.attacks.query import as_predictor, as_release
from ani_jax.defenses.base import freeze
from ani_jax.evaluation import contest
from ani_jax.evaluation.scene import Scene
from ani_jax.records import Picture
from ani_jax.reporting import figures
from ani_jax.targets.image import Image
from ani_jax.types import Batch, Knowledge
from experiments import flags, runs
from experiments.folders import whole
from experiments.progress import say


def reconstructed(run: runs.Run, level: str) -> tuple[str, np.ndarray, Batch]:
    """The strongest decoder's name, what it makes of one release of each test image, and these.

    Raises:
        ValueError: no decoder ran through.
    """
    data, defense, state = runs.trained(run)
    release, predict = freeze(defense, state.params, state.statistics)
    knowledge = Knowledge(as_release(release), as_predictor(predict))
    scene = Scene.of(knowledge, data, LEVELS[level], run.config.train.seed)
    family, *_ = (one for one in families((Image(),), LEVELS[level], knowledge) if one.name == "decoder")
    best = contest.choose(contest.compete(scene, family, *scene.look(family)))
    if best is None or best.guess is None:
        raise ValueError(f"workdir={run.folder}: no decoder ran through")
    return best.record.name, best.guess, scene.data.test


def main(names: list[str]) -> None:
    """Draws what the flags ask for."""
    rows, originals = {}, None
    flags.cache()
    for name in names:
        run = flags.placed(runs.load(Path(name)))
        say(f"{run.config.defense}: its decoders at level {flags.FLAGS.level}")
        decoder, guess, test = reconstructed(run, flags.FLAGS.level)
        labels = np.asarray(test.label)
        # Of one class after the other.
        each = itertools.zip_longest(*(np.flatnonzero(labels == label) for label in np.unique(labels)))
        shown = [row for part in each for row in part if row is not None][: flags.FLAGS.pictures]
        # Runs of other seeds or data have other pictures.
        found = Picture.of(np.asarray(test.image)[shown])
        if originals not in (None, found):
            raise ValueError(f"workdir={name}: its test pictures are not those of {names[0]}")
        originals, rows[f"{run.config.defense}: {decoder}"] = found, Picture.of(guess[shown])
    if originals is not None:
        with whole(Path(flags.FLAGS.output), "wb") as file:
            file.write(figures.gallery(originals, rows, width=80 * len(originals.array())))
    print(f"picture: {flags.FLAGS.output}")


if __name__ == "__main__":
    flags.define(
        "data_dir",
        "manual_dir",
        "cache_dir",
        level=(list(LEVELS), "standard", "How much decoders may compute; a preview is no evidence."),
        pictures=(int, 20, "How many pictures of the test split."),
        output=(str, "pictures.png", "File to write."),
    )
    flags.run(main, others="RUN")
