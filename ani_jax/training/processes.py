"""Several processes as one run: joining, agreeing, stopping together, leaving. One process alone needs none of it.

Every process computes the same; the main one alone reads and writes files, and tells the others what they must know.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

# Private, because JAX has no public barrier whose time limit can be chosen.
from jax._src import distributed
from jax.experimental import multihost_utils

Result = TypeVar("Result")

HEARTBEAT = 60
"""Seconds after which the others give up on a process that is gone; a stuck collective would wait for ever."""
LATEST = 3600
"""Seconds that processes wait for the slowest one before they agree on something."""
# Numbers the barriers, alike in all processes: the name of a barrier is used once.
_calls = itertools.count()


class Elsewhere(RuntimeError):
    """The main process met an error; its own message says which."""


def join(address: str, processes: int | None = None, process: int | None = None) -> None:
    """Makes this process one of a run; before anything else of JAX is touched.

    Args:
        address: host:port of process 0, or "auto" where the platform (a TPU pod, Slurm, Kubernetes) knows all three.
        processes: how many there are.
        process: which this is, counted from 0.
    """
    known = (
        {} if address == "auto" else {"coordinator_address": address, "num_processes": processes, "process_id": process}
    )
    jax.distributed.initialize(**known, heartbeat_timeout_seconds=HEARTBEAT)


def leave() -> None:
    """Ends the common part of a run: waits for all; what follows, each process does for itself."""
    if count() > 1:
        jax.distributed.shutdown()


def count() -> int:
    """How many processes work together now."""
    # After leave, process_count still counts the others.
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this process reads and writes what there is to read and write."""
    return jax.process_index() == 0


def from_main(tree: Any) -> Any:
    """The main process's arrays in every process; each passes arrays of the same shapes.

    Example:
        >>> int(from_main(jnp.int32(3)))
        3
    """
    if count() == 1:
        return tree
    # Collectives of the CPU give up after 30 seconds, and the main process may have read files for longer.
    client: Any = distributed.global_state.client
    client.wait_at_barrier(f"from_main/{next(_calls)}", timeout_in_ms=1000 * LATEST)
    raw = jax.tree.map(lambda leaf: np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf), tree)
    found = multihost_utils.broadcast_one_to_all(raw)
    return jax.tree.map(
        lambda old, new: jax.random.wrap_key_data(new) if is_key(old) else jnp.asarray(new), tree, found
    )


def on_main(attempt: Callable[[], Result]) -> Result | None:
    """Calls a function in the main process; the others get None once it has succeeded.

    Raises:
        Elsewhere: in the others, where it raised in the main one.
    """
    result, error = None, None
    if is_main():
        try:
            result = attempt()
        except Exception as caught:
            error = caught
    # The others would wait for ever for a process that has given up.
    failed = bool(from_main(jnp.bool_(error is not None)))
    if error is not None:
        raise error
    if failed:
        raise Elsewhere("process 0 cannot go on; its own message says why")
    return result


def share(find: Callable[[], Result]) -> Result:
    """What a function finds in the main process alone, in every process: plain data, as JSON has it.

    Raises:
        Elsewhere: see :func:`on_main`.

    Example:
        >>> share(lambda: {"loss": 0.1})
        {'loss': 0.1}
    """
    found: Any = on_main(find)
    if count() == 1:
        return found
    text = np.frombuffer(json.dumps(found).encode(), np.uint8)
    size = int(from_main(jnp.int32(len(text))))
    # A broadcast needs one shape everywhere, so the others repeat their own text to that length.
    return json.loads(np.asarray(from_main(np.resize(text, size))).tobytes())


def preemption() -> Callable[[], bool]:
    """A question to ask after every dispatch: whether any process was told to end, answered alike in all at the same time.

    Distributed JAX catches SIGTERM by itself.
    """
    calls = itertools.count()
    return lambda: multihost_utils.reached_preemption_sync_point(next(calls))


def is_key(leaf: Any) -> bool:
    """Whether an array holds typed keys, which files and collectives do not take as they are."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
