"""Which originals make up the batch of a step: a pure function of key and step, so that resuming needs no state."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ani_jax.types import Batch, PRNGKey, Source

SORTED = 1024
"""Up to this many originals an epoch's order comes from a sort at every step; beyond it, from a cipher."""
ROUNDS = 8
"""Rounds of the cipher; four with random round functions already give a pseudo-random permutation (Luby, Rackoff 1988)."""


def epoch_index(key: PRNGKey, step: Int[Array, ""] | int, size: int, batch_size: int) -> Int[Array, " b"]:
    """Indices of the batch of ``step`` in an endless sequence of seeded epochs.

    Epoch e is a permutation made from ``fold_in(key, e)``, cut into ``size // batch_size`` batches; the remainder is
    dropped, so an epoch visits each original at most once. The permutation is never written down: a step of a large set
    computes only its own ``batch_size`` places, in a time that grows with the square root of ``size``.

    Args:
        key: decides the permutations.
        step: 0 or more; may be traced.
        size: number of originals.
        batch_size: 1 to ``size``.

    Returns:
        ``(batch_size,)`` distinct integers in ``[0, size)``.

    Raises:
        ValueError: if ``batch_size`` is outside 1 to ``size``.

    Example:
        >>> key = jax.random.key(0)
        >>> epoch = jnp.concatenate([epoch_index(key, step, size=6, batch_size=2) for step in range(3)])
        >>> sorted(epoch.tolist())
        [0, 1, 2, 3, 4, 5]
    """
    if not 1 <= batch_size <= size:
        raise ValueError(f"batch_size: {batch_size}; allowed: 1 to {size}, the number of originals")
    step = jnp.asarray(step)
    per_epoch = size // batch_size
    epoch_key, start = jax.random.fold_in(key, step // per_epoch), (step % per_epoch) * batch_size
    if size <= SORTED:
        return jax.lax.dynamic_slice_in_dim(jax.random.permutation(epoch_key, size), start, batch_size)
    return permuted(epoch_key, start + jnp.arange(batch_size, dtype=jnp.int32), size)


def permuted(key: PRNGKey, place: Int[Array, " b"], size: int) -> Int[Array, " b"]:
    """Where a seeded pseudo-random permutation of ``size`` numbers sends some of them, without making the others.

    An alternating Feistel cipher on a grid of ``rows * columns >= size`` cells, ``rows`` and ``columns`` near the square
    root: each round adds to one coordinate a random function of the other. Whoever leaves ``[0, size)`` is enciphered
    again until he is back (cycle walking), which fewer than 1 in ``columns`` have to be in a round.

    Args:
        key: decides the permutation.
        place: integers in ``[0, size)``.
        size: 1 to ``2**31 - 2**16``.

    Returns:
        Integers in ``[0, size)``, distinct for distinct places.

    Example:
        >>> sorted(permuted(jax.random.key(0), jnp.arange(10), 10).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    table = jax.random.bits(key, (ROUNDS, rows), jnp.uint32)

    def encipher(cell: Int[Array, " b"]) -> Int[Array, " b"]:
        row, column = cell // columns, cell % columns
        for number in range(0, ROUNDS, 2):
            row = (row + (table[number] % rows).astype(jnp.int32)[column]) % rows
            column = (column + (table[number + 1] % columns).astype(jnp.int32)[row]) % columns
        return row * columns + column

    def outside(cell: Int[Array, " b"]) -> Array:
        return (cell >= size).any()

    return jax.lax.while_loop(
        outside, lambda cell: jnp.where(cell >= size, encipher(cell), cell), encipher(place.astype(jnp.int32))
    )


def draw_batch(source: Source, key: PRNGKey, step: Int[Array, ""] | int, batch_size: int) -> Batch:
    """The batch of ``step``: its originals by ``epoch_index``, rendered with randomness of that step alone.

    Args:
        source: the split to draw from.
        key: decides both choices; the same key at every step.
        step: 0 or more; may be traced.
        batch_size: 1 to ``source.size``.

    Returns:
        ``batch_size`` examples of distinct originals.

    Raises:
        ValueError: if ``batch_size`` is outside 1 to ``source.size``.

    Example:
        >>> from ani_jax.types import fixed
        >>> source = Source(Batch(jnp.zeros((6, 2, 2, 1)), jnp.arange(6), {}), fixed)
        >>> draw_batch(source, jax.random.key(0), step=7, batch_size=4).label.shape
        (4,)
    """
    index_key, render_key = jax.random.split(key)
    index = epoch_index(index_key, step, source.size, batch_size)
    return source.batch(jax.random.fold_in(render_key, step), index)
