"""How work is spread over devices and processes; nothing else knows.

    jit        one device
    pmap       one replica a device; modules and losses gather over the axis ``AXIS``; noise differs between devices
    sharding   one program over a batch that is cut up; XLA adds the communication, and the noise is that of one device

In every mode a step's batch is the same ``batch_size`` images, drawn by one program whose result is cut along the batch: each
device renders its own part only. The state is whole on every device, and outside of a step it is seen as one device's.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from ani_jax.data.loader import Feed, draw_steps, read_ahead
from ani_jax.training import processes
from ani_jax.training.state import State
from ani_jax.training.step import Outcome, Work, advance
from ani_jax.types import Batch, PRNGKey, Source

AXIS = "devices"
"""Name of the device axis."""
MODES = ("auto", "jit", "pmap", "sharding")
"""Ways to spread the work."""
PLACEMENTS = ("auto", "device", "host")
"""Where the originals lie."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """One way to spread the work over all devices of all processes.

    Attributes:
        mode: one of ``MODES``. "auto" is pmap where there are several accelerators or several processes; the virtual devices of
            one CPU share its cores, so that alone they are no reason.
        placement: where the originals lie, one of ``PLACEMENTS``. "auto" is the device unless they would take more than half
            of its memory. Batches are the same.

    Example:
        >>> Devices("jit").count, Devices("pmap").axis_name
        (1, 'devices')
    """

    mode: str = "jit"
    placement: str = "auto"

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"parallel={self.mode}: must be one of {', '.join(MODES)}")
        if self.placement not in PLACEMENTS:
            raise ValueError(f"placement={self.placement}: must be one of {', '.join(PLACEMENTS)}")
        if self.mode == "auto":
            several = jax.device_count() > 1 and jax.default_backend() != "cpu"
            object.__setattr__(self, "mode", "pmap" if several or processes.count() > 1 else "jit")

    @property
    def axis_name(self) -> str | None:
        """What modules and losses are given to gather over."""
        return AXIS if self.mode == "pmap" else None

    @property
    def count(self) -> int:
        """How many share a batch."""
        return 1 if self.mode == "jit" else jax.device_count()

    def check(self, batch_size: int) -> None:
        """Refuses a batch that cannot be shared out evenly, and processes that do not share.

        Raises:
            ValueError: naming the batch size and the devices, or the mode.
        """
        if self.mode == "jit" and processes.count() > 1:
            raise ValueError(f"parallel=jit: must be pmap or sharding with {processes.count()} processes")
        if batch_size % self.count:
            raise ValueError(
                f"batch_size={batch_size}: must be a multiple of {self.count}, the number of devices of parallel={self.mode}"
            )

    def scatter(self, tree: Any) -> Any:
        """One device's arrays, the same in every process, as the steps take them: whole on every device."""
        if self.mode == "jit":
            return tree
        return _on_every_device(tree, rows=self.mode == "pmap")

    def gather(self, tree: Any) -> Any:
        """What the first local device holds, as one device's arrays; for reading only, the next step consumes it."""
        if self.mode == "jit":
            return tree
        first = jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, tree)
        return _unstacked(first) if self.mode == "pmap" else first

    def feed(
        self, source: Source, data_key: PRNGKey, batch_size: int, plan: Sequence[tuple[int, int]]
    ) -> Iterator[Feed]:
        """What :meth:`run` draws from, for each dispatch of a plan.

        Originals that fit go to every device once, for the whole run; of others, every process reads its own part ahead.

        Args:
            source: the originals.
            data_key: key of the batches.
            batch_size: images per step, over all devices.
            plan: (first step, number of steps) of each dispatch.
        """
        placement = self.placement
        if placement == "auto":
            # A CPU tells nothing of its memory: there, everything is taken to fit.
            room = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
            placement = "host" if sum(leaf.nbytes for leaf in jax.tree.leaves(source)) > room / 2 else "device"
        if placement == "device":
            return itertools.repeat(source if self.mode == "jit" else _on_every_device(source, rows=False))
        part = batch_size // processes.count()
        share = slice(part * jax.process_index(), part * (jax.process_index() + 1))
        feeds = read_ahead(source, data_key, batch_size, plan, share)
        if self.mode == "jit":
            return feeds
        # Rows (steps, share, ...) of this process as its part of the rows of all.
        assemble = functools.partial(
            jax.make_array_from_process_local_data, NamedSharding(_mesh(), PartitionSpec(None, AXIS))
        )
        return (jax.tree.map(assemble, rows) for rows in feeds)

    def run(self, work: Work, state: State, feed: Feed, data_key: PRNGKey, first: int) -> tuple[State, Outcome]:
        """Runs ``work.count`` steps; the state is donated.

        Args:
            work: with a defence that has this spread's ``axis_name``.
            state: as ``scatter`` made it.
            feed: where batches are drawn from: the originals, or the rows of these steps.
            data_key: key of the batches.
            first: the state's step.
        """
        if self.mode != "pmap":
            return jitted(work, state, feed, data_key, self.mode == "sharding")
        batches = drawn(work.batch_size, work.count, feed, data_key, jnp.int32(first))

        # Of the rows for the devices of all processes, those of this one.
        own = jax.tree.map(lambda leaf: _assembled([shard.data for shard in leaf.addressable_shards]), batches)
        return pmapped(work, state, own)


def read(tree: Any) -> Any:
    """Scalars on the host, as Python numbers; of arrays that are spread over devices, the first one's.

    Example:
        >>> read({"loss": jnp.float32(0.5)})
        {'loss': 0.5}
    """
    shards = jax.device_get(jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, tree))
    return jax.tree.map(lambda leaf: leaf.reshape(-1)[0].item(), shards)


@functools.cache
def _mesh() -> Mesh:
    # In this order the devices of a process are neighbours, and so are its rows of a batch.
    # Not jax.make_mesh: its axes are Explicit by default, and here XLA is to place the communication.
    return Mesh(np.array(jax.devices()), (AXIS,))


def _replicated() -> NamedSharding:
    return NamedSharding(_mesh(), PartitionSpec())


def _cut() -> NamedSharding:
    return NamedSharding(_mesh(), PartitionSpec(AXIS))


def _on_every_device(tree: Any, rows: bool) -> Any:
    """Copies on the devices of this process: the rows of one array, as pmap takes them, or one array that is whole on each."""
    leaves, structure = jax.tree.flatten(tree)
    # By hand: jax.device_put_replicated, which did it in one call, is gone.
    copies = [jax.device_put(leaves, device) for device in jax.local_devices()]
    if not rows:
        assemble = jax.make_array_from_single_device_arrays
        return jax.tree.unflatten(structure, [assemble(own[0].shape, _replicated(), list(own)) for own in zip(*copies)])
    stacked = [[part[None] for part in own] for own in zip(*copies)]
    return jax.tree.unflatten(structure, [_assembled(own) for own in stacked])


def _assembled(rows: list[Array]) -> Array:
    """This process's rows, one a device, as an array that a pmapped function takes."""
    sharding = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))
    return jax.make_array_from_single_device_arrays((len(rows), *rows[0].shape[1:]), sharding, rows)


@jax.jit
def _unstacked(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


@functools.partial(jax.jit, static_argnames=("work", "shared"), donate_argnames="state")
def jitted(work: Work, state: State, feed: Feed, data_key: PRNGKey, shared: bool) -> tuple[State, Outcome]:
    """A dispatch as one program, on one device or, where it is ``shared``, over a batch that is cut up."""
    first = state.step

    def draw(step: Int[Array, ""]) -> Batch:
        batch = draw_steps(feed, data_key, step, first, work.batch_size)
        return jax.lax.with_sharding_constraint(batch, _cut()) if shared else batch

    state, outcome = advance(work, state, draw)
    # Between dispatches the state is whole on every device: it is read, saved and resumed as one device's.
    return jax.lax.with_sharding_constraint((state, outcome), _replicated()) if shared else (state, outcome)


@functools.partial(jax.jit, static_argnames=("batch_size", "count"))
def drawn(batch_size: int, count: int, feed: Feed, data_key: PRNGKey, first: Int[Array, ""]) -> Batch:
    """The batches of ``count`` steps as (devices, count, share, ...), cut along the devices."""
    steps = first + jnp.arange(count)
    batches = jax.lax.map(lambda step: draw_steps(feed, data_key, step, first, batch_size), steps)
    devices = jax.device_count()

    def shared(leaf: Array) -> Array:
        rows = leaf.reshape(count, devices, batch_size // devices, *leaf.shape[2:])
        return jax.lax.with_sharding_constraint(rows.swapaxes(0, 1), _cut())

    return jax.tree.map(shared, batches)


@functools.partial(jax.pmap, axis_name=AXIS, static_broadcasted_argnums=0, donate_argnums=1)
def pmapped(work: Work, state: State, batches: Batch) -> tuple[State, Outcome]:
    """A dispatch as one replica a device, each on its own part (count, share, ...) of the batches."""
    first = state.step
    return advance(work, state, lambda step: jax.tree.map(lambda leaf: leaf[step - first], batches))
