"""A run and its folder: train, freeze, audit, report; each part is skipped where its result is already there."""

import dataclasses
import itertools
import json
import resource
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ani_jax.config import Config, RunConfig
from ani_jax.data import catalog
from ani_jax.data.files import DataError
from ani_jax.data.loader import draw_batch
from ani_jax.defenses import registry
from ani_jax.defenses.base import Defense, freeze
from ani_jax.defenses.mixins import Proved
from ani_jax.evaluation.audit import audit
from ani_jax.records import Estimate, Evidence, TargetWords, from_json, to_json
from ani_jax.reporting import page
from ani_jax.reporting.adversaries import Log, gaps, silent
from ani_jax.reporting.findings import points
from ani_jax.targets import base as targets
from ani_jax.training import processes
from ani_jax.training.budget import Spend, UtilityBudget, Watch
from ani_jax.training.callbacks import Callback, Save, Stop, Stopped, Tell
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.loop import train
from ani_jax.training.state import State, init
from ani_jax.types import Data, Release
from experiments.flags import command
from experiments.folders import Parts, WorkdirError, claim, write
from experiments.machine import Machine, Told
from experiments.progress import Progress, log, say

Trained = tuple[Data, Defense, State]
"""A client at the end of its training: what it was trained on, what was trained, and its state."""
Sent = Callable[[Release, Any], tuple[Release, Any]]
"""What makes another client and network of one client and its network: fewer bits, say."""
DRAWS = 20
"""Batches that are drawn to time the drawing."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, read back from its folder."""

    folder: Path
    config: RunConfig
    evidence: Evidence
    metrics: list[dict[str, Any]]


def execute(
    config: RunConfig,
    folder: Path,
    cache: Path,
    machine: Machine | None = None,
    check: Callable[[list[TargetWords]], None] = lambda targets: None,
) -> list[Run]:
    """Brings a run to its end, from wherever it stands, the undefended reference first.

    Several processes train together. Then they part, and the main one finds both runs trained, and goes on alone. It alone holds
    folders, logs and saves, so the others need no common file system.

    Args:
        config: what to run.
        folder: its run folder; created, or resumed if it belongs to the same config.
        cache: where the undefended reference is kept.
        machine: what to run on; None is one device, resuming what is there.
        check: raises where what will be attacked is not what the caller needs; called before anything is trained.

    Returns:
        The undefended reference, where the run is not one itself, and the finished run; to the main process alone.
    """
    machine = machine or Machine()
    ceiling = None if config.defense == "none" else reference_folder(config, cache)
    with claim(folder, config, wait=machine.wait):
        processes.on_main(lambda: check_resume(folder, machine.resume))
        unfinished = [place for place in (ceiling, folder) if place is not None and not finished(place)]
        if unfinished:
            # Before its reference is trained, what was asked for must be possible at all. Both have the same data.
            data, _ = problem(config)
            check([target.words for target in targets.of(data)])
            if ceiling in unfinished:
                processes.on_main(lambda: say("first the undefended reference is trained, once for data and seed"))
                with claim(ceiling, config.reference(), wait=True, flag="cache_dir"):
                    _complete(config.reference(), ceiling, cache, data, machine)
            _complete(config, folder, cache, data, machine)
        if processes.count() == 1:
            found = [load(place) for place in (ceiling, folder) if place is not None]
            report(found)
            return found
    # The main process loads its data anew, and is to hold it once.
    data = None
    processes.leave()
    return execute(config, folder, cache, Machine(stop=Told(signal.SIGTERM))) if processes.is_main() else []


def _complete(config: RunConfig, folder: Path, cache: Path, data: Data, machine: Machine) -> None:
    """Trains and, in one process, audits in a claimed folder, unless that is done; its reference is in the cache."""
    if finished(folder):
        return
    ceiling = None if config.defense == "none" else reference_folder(config, cache)
    started, (data, defense), lost = time.monotonic(), problem(config, data), config.utility_budget
    with Progress(folder, config.defense) as progress:
        saved = Checkpoints(folder / "checkpoints", config.train.keep)
        callbacks: list[Callback] = [Save(saved), Tell(progress), Stop(machine.stop)]
        if ceiling is None:
            callbacks.append(Watch())
        elif lost is not None:
            # The main process alone has the reference's log.
            spent = processes.share(lambda: dataclasses.asdict(UtilityBudget.of(log(ceiling / "metrics.jsonl"), lost)))
            callbacks.append(Spend(UtilityBudget(**spent), saved))
        state = train(defense, data, config.train, callbacks, machine.devices)
        if processes.count() > 1:
            return
        ended, parts = time.monotonic(), Parts(folder / "audit")

        def on_attack(event: Mapping[str, Any]) -> None:
            progress(event)
            if machine.stop():
                raise Stopped("the audit; what it has finished is kept")

        known = None if ceiling is None else load(ceiling).evidence
        options = {"level": config.audit, "reference": known, "store": parts, "on_event": on_attack}
        evidence = attacked((data, defense, state), config.train.seed, cache, **options)
    # The log is that of an uninterrupted run however often this one was killed, so the evidence stays the same too.
    told = tuple(notes(config, evidence, known, log(progress.log)))
    timing = {
        "train_s": ended - started,
        "audit_s": time.monotonic() - ended,
        **_waiting(data, config, progress.times),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "devices": str(jax.devices()),
        "parallel": machine.devices.mode,
    }
    write(folder / "timing.json", json.dumps(timing, indent=1))
    write(folder / "evidence.json", to_json(dataclasses.replace(evidence, notes=(*evidence.notes, *told))))
    parts.clear()


def problem(config: RunConfig, data: Data | None = None) -> tuple[Data, Defense]:
    """The data of a run, which may be loaded already, and the defence built for it; an error where they do not fit."""
    data = config.load(config.train.seed, config.augment) if data is None else data
    if config.train.batch_size > data.defend.size:
        asked = f"batch_size={config.train.batch_size}"
        raise DataError(f"{asked}: must be at most {data.defend.size}, the originals that train")
    return data, config.build(data)


def trained(run: Run) -> Trained:
    """The client that a finished run's evidence is about."""
    data, defense = problem(run.config)
    like, spent = init(defense, jax.random.key(run.config.train.seed)), run.config.utility_budget is not None
    found = Checkpoints(run.folder / "checkpoints").restore(like, best=spent)
    if found is None:
        raise WorkdirError(f"workdir={run.folder}: holds no checkpoint to audit")
    return data, defense, found[1]


def attacked(client: Trained, seed: int, cache: Path, sent: Sent | None = None, **options: Any) -> Evidence:
    """The evidence about the client of a run, or about what ``sent`` makes of it; ``options`` are those of the audit."""
    data, defense, state = client
    frozen = freeze(defense, state.params, state.statistics)
    # The same client with fresh random weights, which are not those that training started from.
    fresh = init(defense, jax.random.fold_in(jax.random.key(seed), 1))
    random = freeze(defense, fresh.params, fresh.statistics)
    (release, predict), (copy, _) = (frozen, random) if sent is None else (sent(*frozen), sent(*random))
    found = audit(
        release,
        data,
        predict,
        seed=seed,
        subject=defense.name,
        random_release=copy,
        common=Parts(cache / "controls"),
        **options,
    )
    return dataclasses.replace(found, notes=(*found.notes, *(defense.proved if isinstance(defense, Proved) else ())))


def reference_folder(config: RunConfig, cache: Path) -> Path:
    """Where the undefended reference of a run is kept."""
    reference = config.reference()
    return cache / "references" / f"{reference.stem}-{reference.digest}"


def finished(folder: Path) -> bool:
    """Whether a run is at its end, as the main process sees it; evidence comes last and whole, so nobody need hold the folder."""
    return processes.share((folder / "evidence.json").exists)


def load(folder: Path) -> Run:
    """Reads a finished run; an error where the folder holds none."""
    try:
        config = RunConfig.read((folder / "config.json").read_text())
        evidence = from_json(Evidence, (folder / "evidence.json").read_text())
    except (OSError, ValueError) as error:
        raise WorkdirError(f"workdir={folder}: holds no finished run ({error})") from None
    return Run(folder, config, evidence, log(folder / "metrics.jsonl"))


def report(runs: list[Run]) -> None:
    """Writes the report of finished runs into the folder of the last one, which is the subject."""
    last, logs = runs[-1], {run.evidence.subject: run.metrics for run in runs}
    render(last.folder, [run.evidence for run in runs], command(last.config, last.folder), last.config, logs)


def render(folder: Path, found: list[Evidence], line: str, config: Config, logs: Mapping[str, Any]) -> None:
    """Writes report.html: evidence side by side, the command that made it, and the config and the training logs behind it."""
    provenance = registry.DEFENSES[config.defense].provenance if isinstance(config, RunConfig) else ""
    shown = page.render(found, logs, command=line, config=json.loads(config.json()), provenance=provenance)
    write(folder / "report.html", shown)


def check_resume(folder: Path, resume: str) -> None:
    """Refuses a claimed folder that holds what it must not hold ("never"), or not what it must ("must")."""
    steps = Checkpoints(folder / "checkpoints").steps()
    begun = f"a run at step {steps[-1]}" if steps else "a finished run" if (folder / "evidence.json").exists() else None
    if resume == "never" and begun:
        raise WorkdirError(f"resume=never: {folder} holds {begun}; name another workdir, or delete it")
    if resume == "must" and not begun:
        raise WorkdirError(f"resume=must: {folder} holds no checkpoint to go on from")


def _waiting(data: Data, config: RunConfig, times: list[tuple[int, float]]) -> dict[str, float]:
    """How long a step takes, how much of that is drawing its batch (which happens inside the compiled step), in milliseconds."""
    paces = [1e3 * (after - before) / (end - start) for (start, before), (end, after) in itertools.pairwise(times)]
    if not paces:
        return {}
    draw = jax.jit(lambda source, step: draw_batch(source, jax.random.key(0), step, config.train.batch_size))
    ends = []
    for step in range(2 + DRAWS):
        jax.block_until_ready(draw(data.defend, jnp.int32(step)))
        ends.append(time.perf_counter())
    # The first draw, which compiles, is before the first end.
    taken = [1e3 * (end - start) for start, end in itertools.pairwise(ends)]
    step_ms, draw_ms = statistics.median(paces), statistics.median(taken)
    return {"step_ms": step_ms, "draw_ms": draw_ms, "waiting_for_data": draw_ms / step_ms}


def notes(config: RunConfig, evidence: Evidence, reference: Evidence | None, lines: Log) -> Iterator[str]:
    """What a run's evidence has to say beside the audit, by its log and its reference."""
    lost = config.utility_budget
    if lost is not None and reference is not None:
        # It was spent on validation images; here is whether it held on test too.
        before, after = (record.utility["accuracy"].value or 0.0 for record in (reference, evidence))
        told = evidence.utility.get("accuracy_lost", Estimate(before - after))
        low, high = (told.value or 0.0 if end is None else end for end in (told.low, told.high))
        # Inside by luck is not held: the worse end of the interval decides.
        held = "held" if high <= lost else "did not hold" if low > lost else "may have held"
        ends = f"{points(told.value or 0.0)} points lost [{points(low)}, {points(high)}]"
        yield f"utility budget of {lost:.1%}: accuracy on test {before:.1%} -> {after:.1%}, {ends}: it {held}"
    yield from silent(lines, config.train.batch_size)
    yield from gaps(lines, evidence)
    # Where the device could as well classify by itself, it would send the answer alone (METHODS 2.1).
    whole = catalog.find(config.dataset, config.primary, config.group_column).classifier_macs
    if config.defense != "none" and whole and evidence.cost and evidence.cost.macs >= whole and config.image_size == 32:
        yield (
            f"the client costs {evidence.cost.macs:,} MACs; a whole classifier of {whole:,} comes within a point of the "
            "undefended accuracy on this data and would send its answer alone"
        )
