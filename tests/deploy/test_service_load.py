"""The service under load, in a process of its own: thousands of queries, thousands of requests that are none, and kill -9."""

import concurrent.futures
import contextlib
import http.client
import itertools
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import msgpack
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from ani_jax.deploy import wire
from ani_jax.deploy.query import Provider, Unanswered
from tests.deploy.conftest import SPEC, features, network

HEADERS = {"content-type": wire.MEDIA}
ROOT = pathlib.Path(__file__).parents[2]


@contextlib.contextmanager
def service(port=0, rows=8, seconds=0.0):
    """A process that serves, and its port."""
    command = [sys.executable, "-m", "tests.deploy.standalone", str(port), str(rows), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(20)


def asked(port, z, clients):
    """What every row of z is answered, and the seconds that took, each and in all."""
    with contextlib.closing(Provider(f"http://127.0.0.1:{port}", SPEC)) as provider:

        def one(row):
            begun = time.perf_counter()
            return provider(row[None])[0], time.perf_counter() - begun

        begun = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            answers, seconds = zip(*pool.map(one, z))
        return np.stack(answers), np.array(seconds), time.perf_counter() - begun


@pytest.mark.slow
def test_two_thousand_queries_of_sixteen_clients():
    z = features(2000)
    with service() as (_, port):
        answers, seconds, total = asked(port, z, 16)
    np.testing.assert_allclose(answers, network(z), rtol=1e-5, atol=1e-6)
    p50, p95 = np.percentile(seconds, (50, 95)) * 1e3
    print(f"2,000 queries, 16 clients: {2000 / total:.0f} a second, p50 {p50:.1f} ms, p95 {p95:.1f} ms")


def test_batches_double_the_throughput_at_least():
    """Where a call costs the same for many rows as for one, as it does on an accelerator."""
    z, rates = features(96), {}
    for rows in (1, 8):
        with service(rows=rows, seconds=0.03) as (_, port):
            asked(port, z[:16], 16)
            rates[rows] = len(z) / asked(port, z, 16)[2]
    print(f"{rates[1]:.0f} a second one at a time, {rates[8]:.0f} in batches of 8 at most")
    assert rates[8] > 2 * rates[1]


def test_a_killed_service_is_one_line_and_a_new_one_serves_again():
    z = features(1)
    with service(seconds=0.02) as (process, port):
        url = f"http://127.0.0.1:{port}"
        with (
            contextlib.closing(Provider(url, SPEC, tries=3)) as provider,
            concurrent.futures.ThreadPoolExecutor(8) as pool,
        ):
            asking = [pool.submit(provider, z) for _ in range(100)]
            asking[20].result()
            process.send_signal(signal.SIGKILL)
            errors = [error for one in asking if (error := one.exception()) is not None]
            assert errors
            for error in errors:
                assert isinstance(error, Unanswered)
                assert str(error).startswith(f"{url}: no answer in 3 tries (")
                assert "\n" not in str(error)
            # The same provider, and the same address.
            with service(port=port):
                np.testing.assert_allclose(provider(z), network(z), rtol=1e-6)


def test_a_client_that_tries_on_does_not_notice_a_restart():
    z = features(1)
    with (
        service() as (process, port),
        contextlib.closing(Provider(f"http://127.0.0.1:{port}", SPEC, tries=12)) as provider,
    ):
        provider(z)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(provider, z)
            with service(port=port):
                np.testing.assert_allclose(answer.result(), network(z), rtol=1e-6)


def damaged(random):
    """A message that is none any more, of many kinds."""
    good = wire.encode("pair", features(1))
    whole = msgpack.unpackb(good)
    kind = random.randrange(8)
    if kind == 0:
        return random.randbytes(random.randrange(400))
    if kind == 1:
        return good[: random.randrange(len(good))]
    if kind == 2:
        return good + random.randbytes(random.randrange(1, 50))
    if kind == 3:
        return random.randbytes(SPEC.largest + random.randrange(1, 100_000))
    if kind == 4:
        field = random.choice(wire.FIELDS)
        whole[field] = random.choice([None, -1, 2**63, "x" * 300, [2**40] * 8, {}, b"", 1.5, ["float32"]])
    if kind == 5:
        whole["shape"] = [random.randrange(0, 2**33) for _ in range(random.randrange(0, 9))]
    if kind == 6:
        z = features(1)
        z.flat[random.randrange(z.size)] = random.choice([np.nan, np.inf, -np.inf, 1e30, 2.001])
        return wire.encode("pair", z)
    if kind == 7:
        del whole[random.choice(wire.FIELDS)]
    return msgpack.packb(whole)


def send(connection, body, headers=HEADERS):
    connection.request("POST", wire.PATH, body, headers)
    response = connection.getresponse()
    return response.status, response.read()


@pytest.mark.slow
def test_five_thousand_requests_that_are_none_leave_it_as_it_was():
    """Half of them damaged messages, half from its own description; memory is read after the first thousand and in the end."""
    schemathesis = pytest.importorskip("schemathesis", reason="pip install 'ani-jax[fuzz]'")
    schemathesis.serializer(wire.MEDIA)(lambda context, value: packed(value))
    source, statuses = random.Random(0), {}

    def count(status, body):
        statuses[status] = statuses.get(status, 0) + 1
        assert status == 200 or (400 <= status < 500 and list(json.loads(body)) == ["error"]), (status, body)

    with service() as (process, port):
        memory = psutil.Process(process.pid).memory_info
        for number in range(2500):
            # A body that is too long closes its connection.
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            with contextlib.closing(connection), contextlib.suppress(ConnectionError):
                count(*send(connection, damaged(source)))
            if number == 1000:
                before = memory().rss
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        operation, methods = schema[wire.PATH]["POST"], itertools.count()
        modes = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]
        quiet = settings(
            max_examples=1250,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        for mode in modes:

            @quiet
            @given(case=mode)
            def throw(case):
                next(methods)
                response = case.call()
                if response.status_code == 200:
                    assert response.headers["content-type"] == [wire.MEDIA]
                count(response.status_code, response.content or b'{"error": ""}')

            throw()
        thrown = next(methods)
        grown = (memory().rss - before) / 2**20
        answers, _, _ = asked(port, features(50), 4)
        np.testing.assert_allclose(answers, network(features(50)), rtol=1e-5, atol=1e-6)
    print(
        f"{sum(statuses.values())} requests, {thrown} of them of schemathesis, by status {statuses}; grown by {grown:.1f} MB"
    )
    assert sum(statuses.values()) > 4900
    assert thrown > 2000
    assert grown < 8


def packed(value):
    """The bytes of what schemathesis made up, in whose JSON bytes are strings."""
    if isinstance(value, dict) and isinstance(value.get("data"), str):
        value = {**value, "data": value["data"].encode(errors="replace")}
    try:
        return msgpack.packb(value)
    except (TypeError, ValueError, OverflowError):
        return repr(value).encode()
