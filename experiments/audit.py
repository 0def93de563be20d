"""Audits a client that is there already: somebody's own function, a finished run, or rows that it sent; nothing is trained.

    python -m experiments.audit --release=package.module:function --predict=package.module:function --dataset=digits
    python -m experiments.audit --pairs=FILE.npz
    python -m experiments.audit --workdir=RUN --audit=standard
    python -m experiments.audit --workdir=RUN --draws=FILE.npz

The function takes a batch of images in [0, 1], or images and a key, and returns what leaves the device. Prints the table and
writes evidence.json and report.html into --workdir, for a run into its audits/LEVEL. The same command again resumes. With --draws
it records what the client sends instead, for whoever wants to attack that with other tools, and audits nothing.
"""

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ani_jax.attacks.base import level_named
from ani_jax.attacks.query import as_release, ask
from ani_jax.config import AuditConfig, PairsConfig
from ani_jax.data.pairs import SPLITS, Pairs
from ani_jax.defenses.base import freeze
from ani_jax.evaluation.audit import audit
from ani_jax.evaluation.draws import NOISY, ROWS, draws
from ani_jax.records import Evidence, from_json, to_json
from ani_jax.reporting.table import summary
from ani_jax.targets import base as targets
from ani_jax.types import Data, Release
from experiments import flags, gate, runs
from experiments.folders import Parts, WorkdirError, claim, whole, write
from experiments.progress import Progress, say
from experiments.runs import Run

GRANTED = "a stress: attackers also own the images that trained the client, which they are not granted otherwise"
"""What such evidence says first."""


def main(_: list[str]) -> None:
    """Audits what the flags name."""
    cache, values, asked = flags.cache(), flags.FLAGS, gate.from_flags()
    names = [field.name for field in dataclasses.fields(AuditConfig)]
    if values.draws is None:
        flags.refuse(("rows", "releases", "burst"), "belongs to --draws=FILE.npz")
    else:
        flags.refuse(gate.OWN, "does not go with --draws, which audits nothing")
    if values.workdir is None or values.draws is not None or values.release is not None or values.pairs is not None:
        flags.refuse(["granted"], "belongs to the audit of a finished run, --workdir=RUN")
    if values.pairs is not None:
        settled = [name for name in names if name not in ("audit", "seed")]
        flags.refuse([*settled, "draws"], "belongs to a client; --pairs are rows that one sent")
        told = PairsConfig(values.pairs, **flags.given(("audit", "seed")))
        folder = Path(values.workdir or f"runs/{Path(told.pairs).stem}-audit-{told.digest}")
        pairs = Pairs.read(told.pairs)
        if asked.requirements:
            # Rows are read for it, of which there may be many.
            level = level_named(told.audit)
            data = pairs.data(level.sample, level.validation, level.test, told.seed)[0]
            asked.check([target.words for target in targets.of(data)], utility=pairs.answer is not None)
        found = established(told, folder, cache, pairs.name, pairs)
    elif values.release is not None:
        config = AuditConfig(**flags.given(names))
        folder = Path(values.workdir or f"runs/{config.stem}-audit-{config.digest}")
        if values.draws is not None:
            record(Path(values.draws), *client(config), config.seed, config.audit)
            return
        found = of_function(config, folder, cache, asked)
    elif values.workdir is None:
        raise ValueError("release=: name package.module:function, a finished run as --workdir=RUN, or --pairs=FILE")
    else:
        settled = [name for name in names if name not in ("audit", "data_dir", "manual_dir")]
        flags.refuse(settled, "belongs to --release; a finished run has its own")
        run = flags.placed(runs.load(Path(values.workdir)))
        if values.draws is not None:
            data, defense, state = runs.trained(run)
            release, predict = freeze(defense, state.params, state.statistics)
            record(Path(values.draws), release, data, predict, run.config.train.seed, values.audit or AuditConfig.audit)
            return
        asked.check(run.evidence.targets)
        folder, found = of_run(run, values.audit, cache, values.granted)
    print(f"{summary(found)}\n\nreport: {folder / 'report.html'}")
    asked.close(found[-1:], folder)


def record(path: Path, release: Release, data: Data, predict: Any, seed: int, level: str) -> None:
    """Writes what a client sends as recorded pairs."""
    try:
        # Opened before the client is asked: what took minutes must not be lost to a name that cannot be written.
        with whole(path, "wb") as file:
            found = draws(release, data, predict, seed=seed, level=level, **flags.given(("rows", "releases", "burst")))
            np.savez(file, **found)  # type: ignore[arg-type]
    except OSError as error:
        raise ValueError(f"draws={path}: cannot be written ({error.strerror}); name a file that can") from None
    counts = ", ".join(f"{count:,} {name}" for name, count in zip(SPLITS, np.bincount(found["split"])))
    print(f"{path}: rows of what the client sends, {counts}; nothing was audited")


def client(config: AuditConfig) -> tuple[Release, Data, Callable[..., Any] | None]:
    """Somebody's own function as a release, the data that it is asked about, and the provider's network."""
    function, predict = (imported(name, getattr(config, name)) for name in ("release", "predict"))
    data = config.load(config.seed)
    images = data.test.image[:2]
    try:
        release = as_release(function)  # type: ignore[arg-type]
        ask(release, images, jax.random.key(0))
    except Exception as error:
        # Whatever somebody's function raises.
        raise ValueError(f"release={config.release}: fails on images of shape {images.shape} ({error})") from None
    return release, data, predict


def of_function(config: AuditConfig, folder: Path, cache: Path, asked: gate.Gate | None = None) -> list[Evidence]:
    """Audits somebody's own function."""
    release, data, predict = client(config)
    if asked is not None:
        asked.check([target.words for target in targets.of(data)], utility=predict is not None)
    return established(config, folder, cache, config.release.rpartition(":")[2], release, data, predict)


def command(config: AuditConfig | PairsConfig, folder: Path) -> str:
    """The command line that audits a function or pairs again, without what is a default anyway."""
    name = "pairs" if isinstance(config, PairsConfig) else "release"
    value = getattr(config, name)
    given = [*flags.spelled(config, type(config)(value)), *flags.folders(config, folder)]
    return " ".join(["python -m experiments.audit", f"--{name}={value}", *given])


def established(
    config: AuditConfig | PairsConfig, folder: Path, cache: Path, subject: str, *client: Any
) -> list[Evidence]:
    """Audits a client, or pairs; finished parts are kept, so the same call again only reads them."""
    options: dict[str, Any] = {"level": config.audit, "seed": config.seed, "common": Parts(cache / "controls")}
    with claim(folder, config, kind="audit"), Progress(folder, subject) as progress:
        evidence = audit(*client, subject=subject, on_event=progress, store=Parts(folder / "parts"), **options)
        write(folder / "evidence.json", to_json(evidence))
        runs.render(folder, [evidence], command(config, folder), config, {})
    return [evidence]


def imported(flag: str, name: str | None) -> Callable[..., Any] | None:
    """The function called package.module:function, None for None."""
    if name is None:
        return None
    module, _, path = name.partition(":")
    try:
        return functools.reduce(getattr, path.split("."), importlib.import_module(module))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{flag}={name}: must be package.module:function, importable from here ({reason})") from None


def of_run(run: Run, level: str | None, cache: Path, granted: bool = False) -> tuple[Path, list[Evidence]]:
    """Audits a finished run again, if no level is given at that of what is published, and first its reference, if that is cached.

    Gives the folder of the audit, and the evidence of both; ``granted``, attackers own what trained the defence, too.
    """
    level, found = level or AuditConfig.audit, []
    name = f"{level}-granted" if granted else level
    if run.config.defense != "none":
        try:
            reference = runs.load(runs.reference_folder(run.config, cache))
            reference = dataclasses.replace(reference, config=run.config.reference())
            own = reference.evidence if name == reference.config.audit else None
            found.append(own or again(reference, level, cache, first=True, name=name, granted=granted))
        except WorkdirError as error:
            say(f"without an undefended reference: {error}")
    found.append(again(run, level, cache, *found, name=name, granted=granted))
    target = run.folder / "audits" / name
    line = f"python -m experiments.audit --workdir={run.folder} --audit={level}{' --granted' * granted}"
    runs.render(target, found, line, run.config, {})
    return target, found


def again(
    run: Run,
    level: str,
    cache: Path,
    reference: Evidence | None = None,
    first: bool = False,
    sent: runs.Sent | None = None,
    name: str = "",
    granted: bool = False,
) -> Evidence:
    """The evidence of a run at some level, read or established; ``first``, for another run's sake, is said and waited for.

    It is that of what ``sent`` makes of the client, where given, then kept under that ``name``; ``granted``: see :func:`of_run`.
    """
    kept = run.folder / "audits" / (name or level) / "evidence.json"
    if not kept.exists() and first:
        say(f"first its undefended reference is audited at level {level}, once and for as long: {run.folder}")
    with contextlib.nullcontext() if kept.exists() else claim(run.folder, run.config, wait=first):
        # Another process may have done it in the meantime.
        if not kept.exists():
            parts = Parts(kept.parent / "parts")
            with Progress(run.folder, run.config.defense) as progress:
                options = {"level": level, "reference": reference, "store": parts, "on_event": progress}
                data, defense, state = runs.trained(run)
                client = data.granted if granted else data, defense, state
                evidence = runs.attacked(client, run.config.train.seed, cache, sent, **options)
                evidence = dataclasses.replace(evidence, notes=(*(GRANTED,) * granted, *evidence.notes))
            kept.parent.mkdir(parents=True, exist_ok=True)
            write(kept, to_json(evidence))
            parts.clear()
    return from_json(Evidence, kept.read_text())


if __name__ == "__main__":
    flags.define(
        *flags.SHARED,
        release=(str, None, "The client, as package.module:function."),
        pairs=(str, None, "Rows of what a client sent, .npz or .parquet, in place of one."),
        predict=(str, None, "The provider's network, likewise (default: none, and no utility)."),
        seed=(int, None, "Of split and audit (default 0)."),
        draws=(str, None, "Write what the client sends to this .npz file, and audit nothing."),
        rows=(int, None, f"Auxiliary rows of --draws (default {ROWS:,}, of a client with noise {NOISY:,})."),
        releases=(int, 1, "Releases of each row of --draws, as mean, deviation, minimum and maximum (default 1)."),
        granted=(bool, False, "Whether attackers own the images that trained the defence, too: a stress of a run."),
        burst=(bool, False, "Whether these are of near-duplicates of each image (shifted by a pixel, brightened)."),
        **gate.OWN,
    )
    flags.run(main)
