"""Many small requests as few large calls: rows wait a moment for others, and are computed in batches of a few fixed sizes."""

import asyncio
import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable

import numpy as np

Server = Callable[[np.ndarray], np.ndarray]
"""The provider's network, ``server(z) -> logits``."""


class Busy(RuntimeError):
    """More rows wait than may."""


@dataclasses.dataclass(eq=False)
class Asked:
    """The rows of one request, since when they wait, and where their answer goes."""

    z: np.ndarray
    since: float
    answer: asyncio.Future[np.ndarray]


class Batches:
    """Answers requests together: :meth:`answer` for each, while :meth:`run` works in the background.

    Every call of ``server`` is of 1, 2, 4, ... or ``rows`` rows, filled up with copies of the last, so that nothing compiles
    under load. The first to come waits at most ``wait`` for others; while a batch is computed the next one gathers.

    Args:
        server: the provider's network; called from another thread, one call at a time.
        rows: of a batch at most; no request may have more.
        wait: seconds.
        waiting: rows that may wait; who comes after them is turned away.
        computed: told of every batch, how many rows of requests it had.

    Example:
        >>> async def main():
        ...     batches = Batches(lambda z: 2 * z, rows=4, wait=0.01)
        ...     worker = asyncio.create_task(batches.run())
        ...     answers = await asyncio.gather(*(batches.answer(np.full((1, 1), n)) for n in range(3)))
        ...     worker.cancel()
        ...     return [int(answer[0, 0]) for answer in answers]
        >>> asyncio.run(main())
        [0, 2, 4]
    """

    def __init__(
        self,
        server: Server,
        *,
        rows: int,
        wait: float,
        waiting: int = 4096,
        computed: Callable[[int], None] = lambda rows: None,
    ):
        self.server, self.rows, self.wait, self.waiting, self.computed = server, rows, wait, waiting, computed
        self.sizes = [*(2**n for n in range((rows - 1).bit_length())), rows]
        self.queue: collections.deque[Asked] = collections.deque()
        self.came = asyncio.Event()

    @property
    def queued(self) -> int:
        """Rows that wait."""
        return sum(len(asked.z) for asked in self.queue)

    async def answer(self, z: np.ndarray) -> np.ndarray:
        """The logits of one request; whoever is cancelled meanwhile gives up its place.

        Args:
            z: (n, ...), n at most ``rows``.

        Raises:
            Busy: too many wait.
            Exception: whatever ``server`` raises.
        """
        if self.queued + len(z) > self.waiting:
            raise Busy(f"{self.queued} rows are waiting; try again later")
        loop = asyncio.get_running_loop()
        asked = Asked(z, loop.time(), loop.create_future())
        self.queue.append(asked)
        self.came.set()
        return await asked.answer

    async def run(self) -> None:
        """Works until it is cancelled."""
        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            while True:
                await self.came.wait()
                while (
                    self.queue
                    and self.queued < self.rows
                    and (left := self.queue[0].since + self.wait - loop.time()) > 0
                ):
                    self.came.clear()
                    # Woken by whoever comes, or by the end of the first one's patience.
                    timer = loop.call_later(left, self.came.set)
                    await self.came.wait()
                    timer.cancel()
                batch: list[Asked] = []
                while self.queue and sum(len(asked.z) for asked in batch) + len(self.queue[0].z) <= self.rows:
                    asked = self.queue.popleft()
                    if not asked.answer.done():
                        batch.append(asked)
                if not self.queue:
                    self.came.clear()
                if batch:
                    await self.compute(batch, thread)

    async def compute(self, batch: list[Asked], thread: concurrent.futures.Executor) -> None:
        """One call of the server for a batch, and everybody's share of what it said."""
        z = np.concatenate([asked.z for asked in batch])
        size = next(size for size in self.sizes if size >= len(z))
        self.computed(len(z))
        try:
            padded = np.concatenate([z, np.repeat(z[-1:], size - len(z), axis=0)])
            answers = np.asarray(await asyncio.get_running_loop().run_in_executor(thread, self.server, padded))
            if len(answers) != size:
                raise RuntimeError(f"the server answered {size} rows with {len(answers)}")
            shares = np.split(answers[: len(z)], np.cumsum([len(asked.z) for asked in batch])[:-1])
        except Exception as error:
            for asked in batch:
                if not asked.answer.done():
                    asked.answer.set_exception(error)
            return
        for asked, share in zip(batch, shares, strict=True):
            if not asked.answer.done():
                asked.answer.set_result(share)
