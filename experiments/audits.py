"""Audits of clients that are there already, and their folders: somebody's own function, or a finished run."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from ani_jax.attacks.query import as_release, ask
from ani_jax.data import catalog
from ani_jax.defenses import registry
from ani_jax.evaluation.audit import BUDGETS, audit
from ani_jax.records import Evidence, from_json, to_json
from ani_jax.reporting import page
from ani_jax.types import Release
from experiments import runs
from experiments.folders import WorkdirError, claimed
from experiments.parts import Parts, write
from experiments.progress import Progress

Where = Mapping[str, Any]
"""``data_dir`` and ``manual_dir`` of ``catalog.load``; no part of the result."""


@dataclasses.dataclass(frozen=True)
class AuditConfig:
    """What determines the result of an audit of a function, its code aside.

    Attributes:
        release: the client as package.module:function.
        predict: the provider's network likewise, None without one.
        dataset: as in ``flags.RunConfig``, like the four after it.
        primary: the task.
        sensitive: the attributes.
        originals: pictures at most.
        image_size: side of the pictures.
        audit: name of the budget, or seconds.
        seed: of split and audit.
    """

    release: str
    predict: str | None = None
    dataset: str = "digits"
    primary: str | None = None
    sensitive: tuple[str, ...] | None = None
    originals: int | None = None
    image_size: int = 32
    audit: str = "quick"
    seed: int = 0

    def command(self, folder: pathlib.Path) -> str:
        """The command line that does it again, without what is a default anyway."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        texts = {name: ",".join(value) if isinstance(value, tuple) else value for name, value in given.items()}
        return " ".join(
            ["python -m experiments.audit", *(f"--{n}={v}" for n, v in texts.items()), f"--workdir={folder}"]
        )

    def folder(self) -> pathlib.Path:
        """The default run folder, another one for another config."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()[:10]
        return pathlib.Path(f"runs/{self.dataset}-audit-{digest}")


def budget(text: str) -> str | float:
    """The name of a budget, or seconds.

    Raises:
        ValueError: neither.

    Example:
        >>> budget("quick"), budget("90")
        ('quick', 90.0)
    """
    if text in BUDGETS:
        return text
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise ValueError(f"audit={text}: must be one of {', '.join(BUDGETS)}, or a number of seconds above 0")


def of_function(config: AuditConfig, folder: pathlib.Path, where: Where) -> list[Evidence]:
    """Audits somebody's own function; its finished parts are kept, so the same call again only reads them.

    Raises:
        ValueError: a name that cannot be imported, or a function that is no client.
        WorkdirError: the folder cannot be used.
        DataError: see ``data``.
    """
    release, predict = (imported(name, getattr(config, name)) for name in ("release", "predict"))
    chosen = {name: getattr(config, name) for name in ("seed", "image_size", "primary", "sensitive", "originals")}
    data = catalog.load(config.dataset, **chosen, **where)
    client = _working(config.release, release, data.test.image[:2])
    subject = config.release.rpartition(":")[2]
    with _claim(folder, config), Progress(folder, subject) as progress:
        evidence = audit(
            client,
            data,
            predict,
            budget=budget(config.audit),
            seed=config.seed,
            subject=subject,
            on_event=progress,
            store=Parts(folder / "parts"),
        )
    _write(folder, [evidence], config.command(folder), dataclasses.asdict(config))
    return [evidence]


def of_run(
    folder: pathlib.Path, name: str | None, cache: pathlib.Path, where: Where
) -> tuple[pathlib.Path, list[Evidence]]:
    """Audits a finished run again, and the undefended reference where it is in the cache; nothing is trained.

    Args:
        folder: of the run.
        name: of the budget, or seconds; None is the run's own budget.
        cache: where undefended references are.
        where: as above.

    Returns:
        The folder of the audit, and the evidences, the reference's first.

    Raises:
        WorkdirError: the folder holds no finished run, or is in use.
        CheckpointError, DataError: see ``training``, ``data``.
    """
    run = runs.load(folder)
    name = run.config.audit if name is None else name
    found: list[Evidence] = []
    if run.config.defense != "none":
        with contextlib.suppress(WorkdirError):
            reference = runs.load(runs.reference_folder(run.config, cache))
            found.append(reference.evidence if name == reference.config.audit else _again(reference, name, None, where))
    found.append(_again(run, name, found[0] if found else None, where))
    target = _target(folder, name)
    command = f"python -m experiments.audit --workdir={folder} --audit={name}"
    provenance = registry.DEFENSES[run.config.defense].provenance
    _write(target, found, command, json.loads(run.config.json()), provenance)
    return target, found


def imported(flag: str, name: str | None) -> Callable[..., Any] | None:
    """The function called package.module:function, None for None.

    Raises:
        ValueError: it cannot be imported; the message says why.
    """
    if name is None:
        return None
    module, _, path = name.partition(":")
    try:
        return functools.reduce(getattr, path.split("."), importlib.import_module(module))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{flag}={name}: must be package.module:function, importable from here ({reason})") from None


def _working(name: str, function: Any, images: Any) -> Release:
    """The function as a client.

    Raises:
        ValueError: it does not take two images; whatever it raised is in the message.
    """
    try:
        release = as_release(function)
        ask(release, images, jax.random.key(0))
    except Exception as error:
        raise ValueError(f"release={name}: fails on images of shape {images.shape} ({error})") from None
    return release


def _claim(folder: pathlib.Path, config: AuditConfig) -> contextlib.AbstractContextManager[None]:
    """Holds a folder that is fresh or belongs to this audit."""
    text = json.dumps(dataclasses.asdict(config), indent=1)
    return claimed(folder, "audit.json", text, "audit", "an audit with other settings")


def _target(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / "audits" / name


def _again(run: runs.Run, name: str, reference: Evidence | None, where: Where) -> Evidence:
    """The evidence of a run under some budget: read where it is there, else established."""
    target = _target(run.folder, name)
    if (target / "evidence.json").exists():
        return from_json(Evidence, (target / "evidence.json").read_text())
    with runs.claim(run.folder, run.config, wait=False), Progress(run.folder, run.config.defense) as progress:
        data, defense, state = runs.trained(run, where)
        parts = Parts(target / "parts")
        evidence = runs.attacked(run.config, data, defense, state, budget(name), reference, parts, progress)
        target.mkdir(parents=True, exist_ok=True)
        write(target / "evidence.json", to_json(evidence))
        parts.clear()
    return evidence


def _write(
    folder: pathlib.Path, found: Sequence[Evidence], command: str, config: Mapping[str, Any], provenance: str = ""
) -> None:
    """Writes the evidence of the last one and the report of all."""
    write(folder / "evidence.json", to_json(found[-1]))
    write(folder / "report.html", page.render(found, {}, command=command, config=config, provenance=provenance))
