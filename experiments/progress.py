"""Listens to training and audit: bars on a terminal and a line now and then elsewhere, metrics.jsonl, TensorBoard beside it."""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping, Sized
from typing import Any

import tensorboardX
import tqdm

SELDOM = 30.0
"""Seconds between two lines about one thing, where there is no terminal."""


def say(line: str) -> None:
    """One line on standard error, above whatever bars are there."""
    tqdm.tqdm.write(f"ani_jax: {line}", sys.stderr)


class Bar:
    """How far something long has come: a bar on a terminal; elsewhere a line when it begins, and every ``SELDOM`` seconds."""

    def __init__(self):
        self.bar, self.title, self.told = tqdm.tqdm(disable=True), "", time.monotonic()

    def open(self, title: str, total: int = 0, step: int = 0) -> None:
        """Begins "WHO: WHAT" or "WHO: WHAT: PART", which ends what was before; of parts the first is said. 0 is no total."""
        self.close()
        what, before = (": ".join(one.split(": ")[:2]) for one in (title, self.title))
        shown, self.title = sys.stderr.isatty(), title
        self.bar = tqdm.tqdm(total=total or None, initial=step, desc=title, leave=False, disable=not shown)
        if not shown and what != before:
            self.told = time.monotonic()
            say(what + (f", {step:,} of {total:,}" if total and what == title else ""))

    def move(self, step: int, values: Mapping[str, str] | None = None) -> None:
        """Shows a new step, with values beside it where there is room."""
        self.bar.set_postfix(values or {}, refresh=False)
        self.bar.update(step - self.bar.n)
        if self.bar.disable and time.monotonic() - self.told > SELDOM:
            self.told = time.monotonic()
            say(f"{self.title}, {step:,}" + (f" of {self.bar.total:,}" if self.bar.total else ""))

    def close(self) -> None:
        """Takes the bar away."""
        self.bar.close()


def watch(items: Iterable[Any], title: str) -> Iterable[Any]:
    """Passes the items of a long loop on, under a bar."""
    bar = Bar()
    # What is done before SELDOM seconds are over is not worth a line.
    bar.title = title
    bar.open(title, len(items) if isinstance(items, Sized) else 0)
    for number, item in enumerate(items, 1):
        yield item
        bar.move(number)
    bar.close()


class Progress(Bar, contextlib.AbstractContextManager):
    """The ``on_event`` of a run that goes on in a folder.

    On "start" the log is cut back to the step that training resumes from, so that a killed run leaves the log of an
    uninterrupted one.

    Attributes:
        times: of the log's entries: step, and seconds of a monotonic clock.
    """

    def __init__(self, folder: pathlib.Path, who: str):
        super().__init__()
        self.who, self.phase, self.log, self.board = who, "", folder / "metrics.jsonl", folder / "tensorboard"
        self.times: list[tuple[int, float]] = []
        self.events: tensorboardX.SummaryWriter | None = None

    def __exit__(self, *_: object) -> None:
        self.close()
        if self.events is not None:
            self.events.close()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Handles one event; kinds that it does not know are somebody else's."""
        match event:
            case {"kind": "start", "step": step, "total": total}:
                kept = [line for line in log(self.log) if line["step"] <= step]
                self.log.write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in kept))
                self.events = tensorboardX.SummaryWriter(str(self.board), purge_step=step + 1)
                self.open(f"{self.who}: training", total, step)
            case {"kind": "metrics", "step": step, "phase": phase, "metrics": metrics}:
                self.times.append((step, time.monotonic()))
                with self.log.open("a") as file:
                    file.write(json.dumps({"step": step, "phase": phase, **metrics}, allow_nan=False) + "\n")
                for name, value in metrics.items():
                    if self.events is not None:
                        self.events.add_scalar(f"{phase}/{name}", value, step)
                if self.phase not in ("", phase):
                    self.open(f"{self.who}: training, {phase}", self.bar.total or 0, step)
                self.phase = phase
                self.move(step, {key: f"{metrics[key]:.3f}" for key in ("loss", "accuracy")})
            case {"kind": "skipped", "reason": reason}:
                say(f"skipped {reason}")
            case {"kind": "attack_start", "name": name, "total": total}:
                self.open(f"{self.who}: {name}", total)
            case {"kind": "attack_step", "step": step}:
                self.move(step)
            case {"kind": "end" | "attack_end"}:
                self.close()


def log(file: pathlib.Path) -> list[dict[str, Any]]:
    """The entries of a training log, none where there is no file; a line that a kill cut short is none."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found
