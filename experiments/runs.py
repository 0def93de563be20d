"""A run and its folder: train, freeze, audit, report; each part is skipped where its result is already there."""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ani_jax.data import catalog
from ani_jax.data.files import DataError
from ani_jax.data.loader import draw_batch
from ani_jax.defenses import registry
from ani_jax.defenses.base import Defense, freeze
from ani_jax.evaluation.audit import audit
from ani_jax.records import Evidence, from_json, to_json
from ani_jax.reporting import page
from ani_jax.reporting.adversaries import gaps, silent
from ani_jax.training.budget import Spend, UtilityBudget, Watch
from ani_jax.training.callbacks import Save, Stop, Tell
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.loop import Stopped, train
from ani_jax.training.state import State, init
from ani_jax.types import Data, Release
from experiments.flags import RunConfig, command
from experiments.folders import WorkdirError, held, marked
from experiments.machine import Machine
from experiments.parts import Parts, write
from experiments.progress import Progress

DRAWS = 20
"""Batches that are drawn to time the drawing."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, read back from its folder."""

    folder: pathlib.Path
    config: RunConfig
    evidence: Evidence
    metrics: list[dict[str, Any]]


def execute(
    config: RunConfig,
    folder: pathlib.Path,
    cache: pathlib.Path,
    where: Mapping[str, Any] | None = None,
    machine: Machine | None = None,
) -> list[Run]:
    """Brings a run to its end, from wherever it stands, the undefended reference first.

    Args:
        config: what to run.
        folder: its run folder; created, or resumed if it belongs to the same config.
        cache: where the undefended reference is kept.
        where: "data_dir" and "manual_dir" of ``catalog.load``; no part of the result.
        machine: what to run on; None is one device, resuming what is there.

    Returns:
        The undefended reference, where the run is not one itself, and the finished run.

    Raises:
        WorkdirError: the folder is a file, cannot be written, is in use, or belongs to another config.
        DataError: see ``data``.
        CheckpointError, TrainingError: see ``training``.
        Stopped: ``machine.stop`` said so.
    """
    machine = machine or Machine()
    with claim(folder, config, wait=False):
        check_resume(folder, machine.resume)
        references = [] if config.defense == "none" else [undefended(config, cache, where, machine)]
        _finish(config, folder, references[0] if references else None, where, machine)
        runs = [*references, load(folder)]
        write(folder / "report.html", report(runs))
    return runs


def undefended(
    config: RunConfig, cache: pathlib.Path, where: Mapping[str, Any] | None = None, machine: Machine | None = None
) -> Run:
    """The undefended reference of a run, trained once and then read from the cache."""
    asked, folder, config = config, reference_folder(config, cache), config.reference()
    with claim(folder, config, wait=True, flag="cache_dir"):
        _finish(config, folder, None, where, machine or Machine(), asked)
    return load(folder)


def reference_folder(config: RunConfig, cache: pathlib.Path) -> pathlib.Path:
    """Where the undefended reference of a run is kept."""
    reference = config.reference()
    return cache / "references" / f"{reference.dataset}-{reference.digest}"


def load(folder: pathlib.Path) -> Run:
    """Reads a finished run.

    Raises:
        WorkdirError: the folder holds no finished run.
    """
    try:
        config = RunConfig.read((folder / "config.json").read_text())
        evidence = from_json(Evidence, (folder / "evidence.json").read_text())
    except (OSError, ValueError) as error:
        raise WorkdirError(f"workdir={folder}: holds no finished run ({error})") from None
    return Run(folder, config, evidence, log(folder))


def log(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The training log, empty where there is none."""
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def report(runs: list[Run]) -> str:
    """The HTML report of finished runs, the last one being the subject."""
    subject = runs[-1]
    return page.render(
        [run.evidence for run in runs],
        {run.evidence.subject: run.metrics for run in runs},
        command=command(subject.config, subject.folder),
        config=json.loads(subject.config.json()),
        provenance=registry.DEFENSES[subject.config.defense].provenance,
    )


@contextlib.contextmanager
def claim(folder: pathlib.Path, config: RunConfig, *, wait: bool, flag: str = "workdir") -> Iterator[None]:
    """Holds a run folder for one process and makes sure that it belongs to this config; nothing in it is overwritten.

    Raises:
        WorkdirError: see :func:`execute`.
    """
    with held(folder, wait=wait, flag=flag):
        _belongs(folder, config)
        yield


def _belongs(folder: pathlib.Path, config: RunConfig) -> None:
    """Marks a fresh folder with its config, or compares with the mark that is there."""
    try:
        found = RunConfig.read(marked(folder, "config.json", config.json(), "run"))
    except WorkdirError:
        raise
    except ValueError as error:
        raise WorkdirError(f"workdir={folder}: its config.json cannot be read ({error}); name another folder") from None
    if found != config:
        differing = _differences(dataclasses.asdict(found), dataclasses.asdict(config))
        raise WorkdirError(f"workdir={folder}: belongs to a run with another config ({differing}); name another folder")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The settings that differ, as "name: old there, new asked"."""
    flat = [{**c, **c["options"], **c["train"], "options": 0, "train": 0} for c in (old, new)]
    names = [name for name in sorted({*flat[0], *flat[1]}) if flat[0].get(name) != flat[1].get(name)]
    return "; ".join(f"{name}: {flat[0].get(name)} there, {flat[1].get(name)} asked" for name in names[:3])


def check_resume(folder: pathlib.Path, resume: str) -> None:
    """Refuses a claimed folder that holds what it must not hold, or not what it must.

    Raises:
        WorkdirError: "never" where a run was begun, "must" where none was.
    """
    steps = Checkpoints(folder / "checkpoints").steps()
    begun = f"a run at step {steps[-1]}" if steps else "a finished run" if (folder / "evidence.json").exists() else None
    if resume == "never" and begun:
        raise WorkdirError(f"resume=never: {folder} holds {begun}; name another workdir, or delete it")
    if resume == "must" and not begun:
        raise WorkdirError(f"resume=must: {folder} holds no checkpoint to go on from")


def _finish(
    config: RunConfig,
    folder: pathlib.Path,
    reference: Run | None,
    where: Mapping[str, Any] | None,
    machine: Machine,
    asked: RunConfig | None = None,
) -> None:
    """Trains and audits in a claimed folder, unless its evidence is there; what was asked for must be possible at all."""
    if (folder / "evidence.json").exists():
        return
    started = time.monotonic()
    data, defense = problem(config, where)
    if asked is not None:
        _fits(asked, data)
    logged: list[tuple[int, float]] = []
    with Progress(folder, config.defense) as progress:

        def on_event(event: Mapping[str, Any]) -> None:
            if event["kind"] == "metrics":
                logged.append((event["step"], time.monotonic()))
            progress(event)

        def on_attack(event: Mapping[str, Any]) -> None:
            progress(event)
            if machine.stop():
                raise Stopped("the audit; what it has finished is kept")

        utility = None
        if config.utility_budget is not None and reference is not None:
            utility = UtilityBudget.of(reference.metrics, config.utility_budget)
        saved = Checkpoints(folder / "checkpoints", config.train.keep)
        rest = [Watch()] if reference is None else [] if utility is None else [Spend(utility, saved)]
        callbacks = [Save(saved), Tell(on_event), *rest, Stop(machine.stop)]
        state = train(defense, data, config.train, callbacks, machine.devices)
        ended, parts = time.monotonic(), Parts(folder / "audit")
        known = reference.evidence if reference else None
        evidence = attacked(config, data, defense, state, config.audit, known, parts, on_attack)
    if utility is not None and reference is not None:
        evidence = _noted(evidence, (_kept(evidence, reference.evidence, utility),))
    # The log is that of an uninterrupted run however often this one was killed, so the evidence stays the same too.
    lines = log(folder)
    warnings = (*silent(lines, config.train.batch_size), *gaps(lines, evidence), *_compute(config, evidence))
    evidence = _noted(evidence, warnings)
    timing = {
        "train_s": ended - started,
        "audit_s": time.monotonic() - ended,
        **_waiting(data, config, logged),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "devices": str(jax.devices()),
        "parallel": machine.devices.mode,
    }
    write(folder / "timing.json", json.dumps(timing, indent=1))
    write(folder / "evidence.json", to_json(evidence))
    parts.clear()


def problem(config: RunConfig, where: Mapping[str, Any] | None) -> tuple[Data, Defense]:
    """The data of a run, and the defence built for it.

    Raises:
        DataError: see ``data``; or fewer pictures train than make up a batch.
    """
    primary, sensitive = config.tasks
    data = catalog.load(
        config.dataset,
        seed=config.train.seed,
        image_size=config.image_size,
        primary=primary,
        sensitive=sensitive,
        originals=config.originals,
        augment=config.augment,
        **(where or {}),
    )
    defense = registry.build(
        config.defense,
        data.primary.classes,
        (config.image_size, config.image_size, 3),
        attributes=tuple((task.name, task.classes) for task in data.sensitive),
        **config.options,
    )
    _fits(config, data)
    return data, defense


def _fits(config: RunConfig, data: Data) -> None:
    if config.train.batch_size > data.defend.size:
        raise DataError(
            f"batch_size={config.train.batch_size}: must be at most {data.defend.size}, the originals that train"
        )


def trained(run: Run, where: Mapping[str, Any] | None) -> tuple[Data, Defense, State]:
    """What a finished run was trained on, what was trained, and the state that its evidence is about.

    Raises:
        WorkdirError: its checkpoints are gone.
        CheckpointError, DataError: see ``training``, ``data``.
    """
    data, defense = problem(run.config, where)
    saved = run.folder / "checkpoints" / ("" if run.config.utility_budget is None else "kept")
    found = Checkpoints(saved).restore(init(defense, jax.random.key(run.config.train.seed)))
    if found is None:
        raise WorkdirError(f"workdir={run.folder}: holds no checkpoint to audit")
    return data, defense, found[1]


def attacked(
    config: RunConfig,
    data: Data,
    defense: Defense,
    state: State,
    budget: str | float,
    reference: Evidence | None,
    parts: Parts,
    on_event: Callable[[Mapping[str, Any]], None],
) -> Evidence:
    """The evidence about a trained client.

    Args:
        config: of its run.
        data: see :func:`problem`, like the defence.
        defense: whose client it is.
        state: its weights.
        budget: of the audit.
        reference: the evidence of the undefended run, where there is one.
        parts: what an interrupted audit has finished.
        on_event: see ``audit``.
    """
    release, predict = freeze(defense, state.params, state.statistics)
    return audit(
        release,
        data,
        predict,
        budget=budget,
        seed=config.train.seed,
        reference=reference,
        subject=config.defense,
        on_event=on_event,
        random_release=_untrained(defense, config.train.seed),
        store=parts,
    )


def _untrained(defense: Defense, seed: int) -> Release:
    """The client with fresh random weights, not those that training started from."""
    state = init(defense, jax.random.fold_in(jax.random.key(seed), 1))
    return freeze(defense, state.params, state.statistics)[0]


def _noted(evidence: Evidence, notes: Iterable[str]) -> Evidence:
    return dataclasses.replace(evidence, notes=(*evidence.notes, *notes))


def _waiting(data: Data, config: RunConfig, logged: list[tuple[int, float]]) -> dict[str, float]:
    """How long a step takes, how much of that is drawing its batch (which happens inside the compiled step), in milliseconds."""
    paces = [1e3 * (after - before) / (end - start) for (start, before), (end, after) in itertools.pairwise(logged)]
    if not paces:
        return {}
    draw = jax.jit(lambda source, step: draw_batch(source, jax.random.key(0), step, config.train.batch_size))
    taken = []
    for step in range(1 + DRAWS):
        started = time.perf_counter()
        jax.block_until_ready(draw(data.defend, jnp.int32(step)))
        taken.append(1e3 * (time.perf_counter() - started))
    step_ms, draw_ms = statistics.median(paces), statistics.median(taken[1:])
    return {"step_ms": step_ms, "draw_ms": draw_ms, "waiting_for_data": draw_ms / step_ms}


def _compute(config: RunConfig, evidence: Evidence) -> Iterator[str]:
    """Says so where the device could as well classify by itself and send the answer alone (METHODS 2.1)."""
    whole = catalog.find(config.dataset, config.primary).classifier_macs
    if config.defense != "none" and whole and evidence.cost and evidence.cost.macs >= whole and config.image_size == 32:
        yield (
            f"the client costs {evidence.cost.macs:,} MACs; a whole classifier of {whole:,} comes within a point of the "
            "undefended accuracy on this data and would send its answer alone"
        )


def _kept(evidence: Evidence, reference: Evidence, utility: UtilityBudget) -> str:
    """Whether the utility budget, which was spent on held-out and validation images, held on ``test`` too."""
    before, after = (record.utility["accuracy"].value or 0.0 for record in (reference, evidence))
    held = "held" if before - after <= utility.lost else "did not hold"
    return f"utility budget of {utility.lost:.1%}: accuracy on test {before:.1%} -> {after:.1%}, so it {held}"
