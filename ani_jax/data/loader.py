"""Which originals make up the batch of a step: a pure function of key and step, so that resuming needs no state."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ani_jax.types import Batch, PRNGKey, Source


def epoch_index(key: PRNGKey, step: Int[Array, ""] | int, size: int, batch_size: int) -> Int[Array, " b"]:
    """Indices of the batch of ``step`` in an endless sequence of seeded epochs.

    Epoch e is a permutation made from ``fold_in(key, e)``, cut into ``size // batch_size`` batches; the remainder is
    dropped, so an epoch visits each original at most once. Costs one sort of ``size`` integers a step.

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
    order = jax.random.permutation(jax.random.fold_in(key, step // per_epoch), size)
    return jax.lax.dynamic_slice_in_dim(order, (step % per_epoch) * batch_size, batch_size)


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
