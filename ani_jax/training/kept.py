"""The checkpoint that a utility budget prefers, on disk beside the others where there is a folder."""

import jax
import jax.numpy as jnp

from ani_jax.defenses.base import Defense, Phase
from ani_jax.training import budget
from ani_jax.training.budget import Appraisal, UtilityBudget
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.log import OnEvent
from ani_jax.training.phases import schedule
from ani_jax.training.state import State
from ani_jax.types import Batch


class Kept:
    """One state out of those that it is shown.

    Args:
        defense: whose states they are.
        validation: what they are appraised on.
        utility: what the defence may cost.
        checkpoints: where the run saves; the kept state lies in a folder of its own beside.
        like: a state of the same layout; what was kept by an earlier process is read back.

    Attributes:
        state: the preferred one so far.
    """

    def __init__(
        self, defense: Defense, validation: Batch, utility: UtilityBudget, checkpoints: Checkpoints | None, like: State
    ):
        self.defense, self.validation, self.utility = defense, validation, utility
        self.saved = None if checkpoints is None else Checkpoints(checkpoints.directory / "kept", keep=1)
        found = self.saved.restore(like) if self.saved is not None else None
        self.state: State = like if found is None else found[1]
        self.seen: Appraisal | None = None if found is None else self._appraise(self.state)

    def consider(self, state: State, on_event: OnEvent) -> State:
        """Keeps a copy of the state if it is preferred; asked again about the same state, it decides the same.

        Returns:
            The state to go on with, its target moved by what was seen.
        """
        phases = schedule(self.defense)
        if not any(spends(self.defense, phase) for phase, _ in phases[: int(state.phase) + 1]):
            return state
        seen = self._appraise(state)
        better = budget.preferred(seen, self.seen, self.utility)
        if better:
            # The training loop donates its state, so what is kept must be a copy.
            self.state, self.seen = jax.tree.map(jnp.copy, state), seen
            if self.saved is not None:
                self.saved.save(int(state.step), state, wait=False)
        values = {"accuracy": float(seen.accuracy), "leakage": float(seen.leakage)}
        on_event({"kind": "selection", "step": int(state.step), "kept": better, **values})
        return budget.tighten(state, seen, self.utility)

    def wait(self) -> None:
        """Returns once the kept state is on disk."""
        if self.saved is not None:
            self.saved.wait()

    def _appraise(self, state: State) -> Appraisal:
        weights = self.defense.init_weights()
        return budget.look(state, self.validation, weights, self.defense, self.defense.active_terms())


def spends(defense: Defense, phase: Phase) -> bool:
    """Whether a phase has a term that a utility budget weighs.

    Example:
        >>> from ani_jax.defenses import registry
        >>> ani = registry.build("ani", 10, (32, 32, 3))
        >>> [spends(ani, phase) for phase in ani.phases]
        [False, True]
    """
    return any(term in defense.privacy for term in phase.objective)
