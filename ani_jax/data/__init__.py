"""Data sets split by original, the pure functions that draw them, and the stateless choice of batches."""

from ani_jax.data.own import from_arrays

__all__ = ["from_arrays"]
