"""Shows whoever waits at a prompt or a notebook how far an audit has come; elsewhere nobody is told unless they ask."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import tqdm.auto


def interactive() -> bool:
    """Whether somebody sits at a prompt: Python's own, IPython's or a notebook's, all of which set one."""
    return hasattr(sys, "ps1")


class Progress:
    """An ``on_event`` that draws one bar for an audit: families of attacks that are done, and who is at work."""

    def __init__(self):
        self.bar, self.total, self.drawn = tqdm.auto.tqdm(disable=True), 0, 0.0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Handles one event; kinds that it does not know are somebody else's."""
        match event:
            case {"kind": "audit_start", "total": total}:
                self.bar = tqdm.auto.tqdm(total=total, desc="audit", unit="attack")
            case {"kind": "audit_step", "step": step}:
                self.bar.update(step - self.bar.n)
            case {"kind": "attack_start", "name": name, "total": total}:
                self.total = total
                self.bar.set_postfix_str(name)
            case {"kind": "attack_step", "name": name, "step": step} if (
                time.monotonic() > self.drawn + self.bar.mininterval
            ):
                # Steps come faster than anybody reads.
                self.drawn = time.monotonic()
                self.bar.set_postfix_str(f"{name}, {step:,}" + (f" of {self.total:,}" if self.total else ""))
            case {"kind": "audit_end"}:
                self.bar.set_postfix_str("")
                self.bar.close()
