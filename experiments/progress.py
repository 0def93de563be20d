"""Listens to training and audit: bars on a terminal, metrics.jsonl as the source of truth, TensorBoard beside it."""

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, Self

import tensorboardX
import tqdm


class Progress:
    """The ``on_event`` of a run.

    On "start" the log is cut back to the step that training resumes from, so that a killed run leaves the log of an
    uninterrupted one.

    Args:
        folder: run folder.
        title: shown on the bars.
    """

    def __init__(self, folder: pathlib.Path, title: str):
        self.folder, self.title = folder, title
        self.log = folder / "metrics.jsonl"
        self.bar: tqdm.tqdm | None = None
        self.events: tensorboardX.SummaryWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        if self.events is not None:
            self.events.close()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Handles one event; kinds that it does not know are somebody else's."""
        handler = getattr(self, f"_on_{event['kind']}", None)
        if handler is not None:
            handler(event)

    def _on_start(self, event: Mapping[str, Any]) -> None:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        kept = [line for line in lines if _step(line) is not None and _step(line) <= event["step"]]  # type: ignore[operator]
        self.log.write_text("".join(line + "\n" for line in kept))
        self.events = tensorboardX.SummaryWriter(str(self.folder / "tensorboard"), purge_step=event["step"] + 1)
        self._open(f"{self.title}: training", event["total"], event["step"])

    def _on_metrics(self, event: Mapping[str, Any]) -> None:
        with self.log.open("a") as file:
            file.write(
                json.dumps({"step": event["step"], "phase": event["phase"], **event["metrics"]}, allow_nan=False) + "\n"
            )
        for name, value in event["metrics"].items():
            if self.events is not None:
                self.events.add_scalar(f"{event['phase']}/{name}", value, event["step"])
        if self.bar is not None:
            self.bar.set_postfix({k: f"{event['metrics'][k]:.3f}" for k in ("loss", "accuracy")}, refresh=False)
            self.bar.update(event["step"] - self.bar.n)

    def _on_skipped(self, event: Mapping[str, Any]) -> None:
        tqdm.tqdm.write(f"skipped {event['reason']}", sys.stderr)

    def _on_end(self, event: Mapping[str, Any]) -> None:
        self._close()

    def _on_attack_start(self, event: Mapping[str, Any]) -> None:
        self._open(f"{self.title}: {event['name']}", event["total"], 0)

    def _on_attack_step(self, event: Mapping[str, Any]) -> None:
        if self.bar is not None:
            self.bar.update(event["step"] - self.bar.n)

    def _on_attack_end(self, event: Mapping[str, Any]) -> None:
        self._close()

    def _open(self, title: str, total: int, step: int) -> None:
        self._close()
        self.bar = tqdm.tqdm(total=total, initial=step, desc=title, disable=not sys.stderr.isatty(), leave=False)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _step(line: str) -> int | None:
    """The step of a log line, None for one that a kill cut short."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None
