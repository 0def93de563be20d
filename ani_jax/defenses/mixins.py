"""What some methods need beyond the contract; the training step and the fresh state ask whether a defence is one of these."""

from collections.abc import Mapping

from jaxtyping import Array

from ani_jax.defenses.base import Forward, Terms
from ani_jax.types import Batch


class Measured:
    """A defence that logs more than its losses."""

    def measurements(self, forward: Forward, batch: Batch) -> Terms:
        """Quantities that nobody optimises."""
        raise NotImplementedError


class Prepared:
    """A defence that needs statistics of the training data: a phase's ``prepare`` fills ``state.extra``, which losses see."""

    def init_extra(self) -> dict[str, Array]:
        """The arrays before any phase has filled them: a saved state has one layout in every phase."""
        raise NotImplementedError


class Reversible:
    """A defence that knows phases with ``reversal``: adversaries and client learn in one backward pass (Ganin 2015)."""

    def reversal_scales(self, weights: Mapping[str, Array]) -> Mapping[str, Array]:
        """Adversary's name -> factor of the reversed gradient of its own loss.

        The term that the factor stands for gives the defender no other gradient in such a phase.

        Args:
            weights: ``state.weights``.
        """
        raise NotImplementedError
