"""How a defence is trained: the part of a run's config that any training takes."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a defence is trained; everything in it may change the result.

    Attributes:
        seed: of initialisation, batches and noise.
        batch_size: images per step, over all devices.
        steps_per_dispatch: optimiser steps in one compiled call. Another value compiles another program, so numbers may
            differ in the last digits; batches and keys stay the same.
        log_every: steps between two entries of the log; a multiple of ``steps_per_dispatch``.
        checkpoint_every: steps between two checkpoints; likewise.
        keep: checkpoints kept.
        clip: largest global norm of the defender's gradient and of each adversary's; 0 does not clip.
        skip_nonfinite: a step whose losses or gradients are not finite is left out, not the end of the run.
    """

    seed: int = 0
    batch_size: int = 64
    steps_per_dispatch: int = 1
    log_every: int = 10
    checkpoint_every: int = 100
    keep: int = 2
    clip: float = 0.0
    skip_nonfinite: bool = False

    def __post_init__(self):
        for name in ("batch_size", "steps_per_dispatch", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("log_every", "checkpoint_every"):
            if getattr(self, name) % self.steps_per_dispatch:
                raise ValueError(
                    f"{name}={getattr(self, name)}: must be a multiple of steps_per_dispatch={self.steps_per_dispatch}"
                )
        if not 0 <= self.clip < math.inf:
            raise ValueError(f"clip={self.clip}: must be a finite number, 0 or more; 0 does not clip")
