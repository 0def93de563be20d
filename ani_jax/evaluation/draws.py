"""What a client sends, recorded row by row, so that anybody can attack it with their own tools."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from ani_jax.attacks.base import dealt, level_named
from ani_jax.attacks.query import Observed, as_predictor, as_release, predicted, query, summarise
from ani_jax.data.pairs import SPLITS
from ani_jax.evaluation.scene import Scene, named
from ani_jax.losses.checks import require
from ani_jax.types import Batch, Data, Features, Knowledge, Logits, PRNGKey, Release, Source

ROWS, NOISY = 40_000, 120_000
"""Auxiliary rows by default, of a client without noise and of one with."""


def draws(
    release: Callable[..., Features] | Release,
    data: Data,
    predict: Callable[[Features], Logits] | None = None,
    *,
    seed: int = 0,
    rows: int | None = None,
    releases: int = 1,
    burst: bool = False,
    level: str = "standard",
) -> dict[str, np.ndarray]:
    """Rows of what one client sends, in the form that DESIGN calls pairs.

    Auxiliary rows show every auxiliary original equally often, shuffled, each drawn anew and with fresh noise. Validation and
    test rows, their noise included, are those that an audit of the same seed and level chooses and scores on.

    Args:
        release: the client, see :func:`ani_jax.evaluation.audit.audit`.
        data: whose splits are recorded.
        predict: the provider's network, for ``answer``.
        seed: of the audit.
        rows: auxiliary rows; None is ``ROWS``, and ``NOISY`` for a client with noise.
        releases: of each row; above 1, ``z`` holds their mean, deviation, least and largest value side by side on its last axis.
        burst: whether these are of near-duplicates of each image, which ``x`` shows as it is.
        level: of the audit.

    Returns:
        ``z`` (n, ...), ``split`` (n,) with 0 auxiliary, 1 validation, 2 test, ``x`` (n, h, w, c) in [0, 1], ``label``, ``s_NAME``
        for every attribute, and where there is one ``group`` and ``answer``, the class that the provider answers to the first
        release.

    Raises:
        ValueError: ``rows`` or ``releases`` below 1, or a burst of one.

    Example:
        >>> from ani_jax.data import digits
        >>> found = draws(lambda x: x, digits.load(image_size=8), rows=1000)
        >>> sorted(found), len(found["z"]) == len(found["split"]) > 1000
        (['group', 'label', 's_ink', 's_paper', 'split', 'x', 'z'], True)
    """
    client = as_release(release)
    rows = (NOISY if client.stochastic else ROWS) if rows is None else rows
    require(rows >= 1, "rows", rows, "1 or more")
    require(releases > burst, "releases", releases, "2 or more of a burst" if burst else "1 or more")
    knowledge = Knowledge(client, None if predict is None else as_predictor(predict))
    # Of the audit's own auxiliary sample nothing is recorded, so hardly any of it is asked for.
    scene = Scene.of(knowledge, data, dataclasses.replace(level_named(level), sample=1, often=1), seed)
    scene = scene.fewer(scene.level.repeated if releases > 1 else 0)
    asked, test_z = scene.ask(releases, burst)
    fixed = [(asked.held, scene.data.validation), (test_z, scene.data.test)]
    own = _auxiliary(named(scene.key, "draws"), client, data.auxiliary, rows, releases, burst)
    found: dict[str, list[np.ndarray]] = {}
    for z, batch in itertools.chain(own, fixed):
        told = {"z": summarise(z), "x": batch.image, "label": batch.label}
        told |= {f"s_{name}": values for name, values in batch.sensitive.items()}
        told |= {} if batch.group is None else {"group": batch.group}
        told |= {} if knowledge.predict is None else {"answer": predicted(knowledge.predict, z[0]).argmax(1)}
        for name, values in told.items():
            found.setdefault(name, []).append(np.asarray(values))
    sizes = [rows, *(len(batch.label) for _, batch in fixed)]
    return {
        "split": np.repeat(np.arange(len(SPLITS), dtype=np.int8), sizes),
        # Freed as it is joined: a million numbers a row, twice, are more than most machines have.
        **{name: np.concatenate(found.pop(name)) for name in list(found)},
    }


def _auxiliary(
    key: PRNGKey, release: Release, source: Source, rows: int, releases: int, burst: bool
) -> Iterator[tuple[Observed, Batch]]:
    """The attacker's own rows, ``CHUNK`` at a time."""
    deal_key, ask_key = jax.random.split(key)
    for number, batch in enumerate(dealt(source, deal_key, rows)):
        yield query(release, batch.image, jax.random.fold_in(ask_key, number), releases, burst), batch
