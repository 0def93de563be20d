"""Which originals make up the batch of a step: a pure function of key and step, so that resuming needs no state.

Originals that fit on the device stay there and the compiled step takes its own (:func:`draw_batch`). For others the host reads
ahead what the next steps will show (:func:`read_ahead`), and only drawing is left to the device. Both show the same batches.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ani_jax.types import Batch, PRNGKey, Source

SORTED = 1024
"""Up to this many originals an epoch's order comes from a sort at every step; beyond it, from a cipher."""
ROUNDS = 8
"""Rounds of the cipher; four with random round functions already give a pseudo-random permutation (Luby, Rackoff 1988)."""
AHEAD = 8
"""Dispatches that the host reads ahead."""
READERS = 4
"""Threads that read them."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """The originals that the next steps show, read by the host.

    Attributes:
        stored: a pytree of arrays (steps, batch, ...).
        render: the source's.
    """

    stored: Any
    render: Callable[[PRNGKey, Any], Batch] = dataclasses.field(metadata={"static": True})


Feed = Source | Rows
"""Where batches are drawn from: all originals, or the rows of a few steps."""


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
    # Nearly square, so that the random tables are short and few cells lie beyond the last number.
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


def draw_steps(feed: Feed, key: PRNGKey, step: Int[Array, ""], first: Int[Array, ""], batch_size: int) -> Batch:
    """The batch of ``step`` from either kind of feed; the same for both.

    Args:
        feed: all originals, or the rows of the steps from ``first`` on.
        key: see :func:`draw_batch`.
        step: may be traced.
        first: the step of a feed's first rows.
        batch_size: see :func:`draw_batch`.
    """
    if isinstance(feed, Source):
        return draw_batch(feed, key, step, batch_size)
    # The render key of draw_batch, so that both feeds show the same pictures.
    rows = jax.tree.map(lambda leaf: leaf[step - first], feed.stored)
    return feed.render(jax.random.fold_in(jax.random.split(key)[1], step), rows)


def read_ahead(
    source: Source, key: PRNGKey, batch_size: int, plan: Sequence[tuple[int, int]], share: slice = slice(None)
) -> Iterator[Rows]:
    """Reads the rows of a sequence of dispatches ahead of their use, by grain.

    Args:
        source: originals on the host, memory-mapped files included.
        key: see :func:`draw_batch`.
        batch_size: see :func:`draw_batch`.
        plan: (first step, number of steps) of each dispatch.
        share: the part of each batch that this process shows.

    Example:
        >>> from ani_jax.types import fixed
        >>> source = Source(Batch(np.zeros((6, 2, 2, 1)), np.arange(6), {}), fixed)
        >>> [rows.stored.label.shape for rows in read_ahead(source, jax.random.key(0), 2, [(0, 2), (2, 1)])]
        [(2, 2), (1, 2)]
    """
    import grain

    index_key = jax.random.split(key)[0]

    def read(dispatch: tuple[int, int]) -> Any:
        # On the host's own processor: the accelerator has better things to do.
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            steps = range(dispatch[0], sum(dispatch))
            rows = [np.asarray(_compiled_index(index_key, step, source.size, batch_size)) for step in steps]
        index = np.stack(rows)[:, share]
        return jax.tree.map(
            lambda leaf: np.asarray(leaf[index.ravel()]).reshape(*index.shape, *leaf.shape[1:]), source.stored
        )

    options = grain.ReadOptions(num_threads=READERS, prefetch_buffer_size=AHEAD)
    for stored in grain.MapDataset.source(list(plan)).map(read).to_iter_dataset(options):
        yield Rows(stored, source.render)


# One for all runs of a process, so that each size is compiled once.
_compiled_index = jax.jit(epoch_index, static_argnames=("size", "batch_size"))
