"""A service on loopback, in a thread of the test's own process."""

import contextlib
import threading
import time

import numpy as np
import pytest

from ani_jax.deploy import service, wire

SPEC = wire.Spec("pair", (4, 3), "float32", low=-2.0, high=2.0, rows=8)
WEIGHTS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)


def network(z):
    """A provider's network that any test can compute itself."""
    return np.tanh(z.reshape(len(z), -1)) @ WEIGHTS


def held(gate):
    """That network, which answers nothing but the zeros that warm it up before a gate is open."""

    def slow(z):
        if z.any():
            gate.wait(20)
        return network(z)

    return slow


def features(rows, seed=0):
    return np.random.default_rng(seed).uniform(-2, 2, (rows, *SPEC.shape)).astype(np.float32)


@contextlib.contextmanager
def loopback(app, **options):
    """The address of an application that is being served."""
    server, listener = service.listening(app, **options)
    host, port = listener.getsockname()[:2]
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield f"http{'s' * ('tls_cert' in options)}://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def url():
    """A service of ``network`` with the limits that it has by default, the rate aside."""
    with loopback(service.application([service.Model(SPEC, network)], service.Limits(rate=0))) as address:
        yield address
