"""Batches: everybody gets the answer to their own rows, in few calls of few sizes, soon, whatever happens to the others."""

import asyncio
import contextlib
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.deploy.batches import Batches, Busy


@contextlib.asynccontextmanager
async def working(server, **options):
    batches = Batches(server, **{"rows": 8, "wait": 0.02, **options})
    worker = asyncio.create_task(batches.run())
    try:
        yield batches
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


def rows(n, value):
    return np.full((n, 2), value, np.float32)


def test_everybody_gets_their_own_rows():
    calls = []

    def server(z):
        calls.append(len(z))
        return z * 10

    async def main():
        async with working(server) as batches:
            sizes = [1 + n % 3 for n in range(40)]
            found = await asyncio.gather(*(batches.answer(rows(size, n)) for n, size in enumerate(sizes)))
            for n, size in enumerate(sizes):
                np.testing.assert_array_equal(found[n], rows(size, 10 * n))

    asyncio.run(main())
    assert set(calls) <= {1, 2, 4, 8}
    # 79 rows in batches of 6 to 8.
    assert len(calls) <= 14


def test_no_size_is_compiled_under_load():
    server = jax.jit(lambda z: jnp.tanh(z))

    async def main():
        async with working(lambda z: np.asarray(server(z)), rows=6) as batches:
            assert batches.sizes == [1, 2, 4, 6]
            for size in batches.sizes:
                server(rows(size, 0))
            for n in range(1, 7):
                await asyncio.gather(*(batches.answer(rows(1, 0)) for _ in range(n)))

    asyncio.run(main())
    assert server._cache_size() == 4


def test_who_comes_alone_waits_no_longer_than_said():
    async def main():
        async with working(lambda z: z, wait=0.05) as batches:
            begun = time.perf_counter()
            await batches.answer(rows(1, 0))
            alone = time.perf_counter() - begun
            begun = time.perf_counter()
            await batches.answer(rows(8, 0))
            full = time.perf_counter() - begun
        assert 0.04 < alone < 0.5
        assert full < 0.04

    asyncio.run(main())


def test_a_failure_reaches_those_of_its_batch_and_nobody_later():
    def server(z):
        if (z < 0).any():
            raise RuntimeError("no")
        return z

    async def main():
        async with working(server) as batches:
            found = await asyncio.gather(
                batches.answer(rows(1, -1)), batches.answer(rows(1, 1)), return_exceptions=True
            )
            assert [type(one) for one in found] == [RuntimeError, RuntimeError]
            np.testing.assert_array_equal(await batches.answer(rows(1, 1)), rows(1, 1))

    asyncio.run(main())


def test_too_few_answers_are_an_error_and_nobody_gets_another_ones():
    async def main():
        async with working(lambda z: z[:1]) as batches:
            found = await asyncio.gather(*(batches.answer(rows(1, n)) for n in range(3)), return_exceptions=True)
            assert all(isinstance(one, Exception) for one in found)

    asyncio.run(main())


def test_who_gives_up_is_not_computed_and_holds_up_nobody():
    seen, gate = [], threading.Event()

    def server(z):
        gate.wait(5)
        seen.append(z.copy())
        return z

    async def main():
        async with working(server, wait=0.0) as batches:
            first = asyncio.create_task(batches.answer(rows(1, 1)))
            await asyncio.sleep(0.05)
            gone, last = (asyncio.create_task(batches.answer(rows(1, n))) for n in (2, 3))
            await asyncio.sleep(0.01)
            gone.cancel()
            gate.set()
            np.testing.assert_array_equal(await last, rows(1, 3))
            await first

    asyncio.run(main())
    assert 2 not in np.concatenate(seen)


def test_too_many_are_turned_away_and_the_others_answered():
    gate = threading.Event()

    def server(z):
        gate.wait(5)
        return z

    async def main():
        async with working(server, wait=0.0, waiting=4) as batches:
            first = asyncio.create_task(batches.answer(rows(1, 0)))
            await asyncio.sleep(0.05)
            others = [asyncio.create_task(batches.answer(rows(2, n))) for n in range(2)]
            await asyncio.sleep(0.01)
            with pytest.raises(Busy, match="4 rows are waiting"):
                await batches.answer(rows(1, 9))
            gate.set()
            await asyncio.gather(first, *others)

    asyncio.run(main())
