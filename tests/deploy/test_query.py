"""A device's side: the same bytes with every try, a line for every failure, and nothing but z in what is sent."""

import contextlib
import http.server
import itertools
import threading

import numpy as np
import pytest

from ani_jax.deploy import wire
from ani_jax.deploy.query import PATIENCE, Provider, Unanswered
from ani_jax.deploy.service import Limits, Model, application
from tests.deploy.conftest import SPEC, features, held, loopback, network


class Script:
    """A provider that answers as it is told, and keeps what it was sent."""

    def __init__(self, *answers):
        self.answers, self.bodies = itertools.chain(answers, itertools.repeat(answers[-1])), []
        script = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                script.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                answer = next(script.answers)
                if answer is None:
                    # The connection breaks off before any answer.
                    self.close_connection = True
                    return
                status, body, headers = answer
                self.send_response(status)
                for name, value in {**headers, "content-length": len(body)}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"


Z = features(2)
FINE = (200, wire.encode("pair", network(Z)), {})


@contextlib.contextmanager
def provider(script, pauses=None, **options):
    with (
        script,
        contextlib.closing(
            Provider(script.url, SPEC, sleep=(pauses if pauses is not None else []).append, **options)
        ) as one,
    ):
        yield one


def test_a_provider_is_the_network_that_it_serves():
    with loopback(application([Model(SPEC, network)])) as url, contextlib.closing(Provider(url, SPEC)) as ask:
        # 20 rows are three messages of at most 8.
        np.testing.assert_allclose(ask(features(20)), network(features(20)), rtol=1e-5, atol=1e-6)


def test_every_try_sends_the_same_bytes():
    busy = (503, b'{"error": "busy"}', {})
    script = Script(busy, None, (429, b"", {}), FINE)
    with provider(script) as ask:
        np.testing.assert_allclose(ask(Z), network(Z), rtol=1e-6)
    assert script.bodies == [wire.encode("pair", Z)] * 4


def test_pauses_double_at_most_and_are_as_long_as_was_asked():
    pauses, busy = [], (503, b"", {})
    with provider(
        Script(busy, busy, (503, b"", {"retry-after": 7}), (503, b"", {"retry-after": "1e999"}), FINE), pauses
    ) as ask:
        ask(Z)
    assert len(pauses) == 4
    assert 0.05 <= pauses[0] <= 0.1 <= 2 * pauses[1] <= 0.4
    assert pauses[2] == 7
    assert pauses[3] <= 0.8
    with provider(Script((503, b"", {"retry-after": 9999}), FINE), pauses) as ask:
        ask(Z)
    assert pauses[-1] == PATIENCE


@pytest.mark.parametrize(
    ("answer", "tries", "told"),
    [
        (None, 3, "no answer in 3 tries ("),
        ((500, b"a\n trace", {}), 1, "refused (500: a trace)"),
        ((400, b'{"error": "z=4"}', {}), 1, 'refused (400: {"error": "z=4"})'),
        ((302, b"", {"location": "http://127.0.0.1:9/elsewhere"}), 1, "refused (302: )"),
        ((503, b"x" * 10_000, {}), 3, f"no answer in 3 tries (503: {'x' * 200})"),
        ((200, b"<html>", {}), 1, "did not answer with logits (the body is"),
        ((200, wire.encode("other", network(Z)), {}), 1, "did not answer with 2 rows of logits"),
        ((200, wire.encode("pair", network(Z)[:1]), {}), 1, "did not answer with 2 rows of logits"),
        ((200, wire.encode("pair", network(Z) * np.nan), {}), 1, "answered with logits that are not finite"),
    ],
    ids=["gone", "failed", "refused", "elsewhere", "busy", "page", "other", "rows", "nan"],
)
def test_refuses_in_one_line(answer, tries, told):
    script = Script(answer)
    with provider(script, tries=3) as ask, pytest.raises(Unanswered) as caught:
        ask(Z)
    assert str(caught.value).startswith(f"{script.url}: {told}")
    assert "\n" not in str(caught.value)
    assert len(script.bodies) == tries


def test_refuses_an_answer_without_end():
    script = Script((200, bytes(8_000_000), {}))
    with provider(script, tries=1) as ask, pytest.raises(Unanswered, match=r"the answer has more than \d+ bytes"):
        ask(Z)


@pytest.mark.parametrize("z", [Z * np.nan, Z + 9, Z[:, :2], Z.astype(np.float16), Z[:0]])
def test_refuses_to_send_what_is_no_z(z):
    script = Script(FINE)
    with provider(script) as ask, pytest.raises(wire.Refused):
        ask(z)
    assert script.bodies == []


def test_refuses_a_service_that_is_not_there_and_finds_it_once_it_is():
    with loopback(application([Model(SPEC, network)])) as url:
        pass
    port = int(url.rpartition(":")[2])
    with contextlib.closing(Provider(url, SPEC, tries=2, sleep=lambda _: None)) as ask:
        with pytest.raises(Unanswered, match=rf"{url}: no answer in 2 tries \(.*refused\)"):
            ask(Z)
        with loopback(application([Model(SPEC, network)]), port=port):
            np.testing.assert_allclose(ask(Z), network(Z), rtol=1e-6)


def test_refuses_a_service_that_is_too_slow():
    gate = threading.Event()
    with (
        loopback(application([Model(SPEC, held(gate))])) as url,
        contextlib.closing(Provider(url, SPEC, tries=1, timeout=0.2)) as ask,
    ):
        with pytest.raises(Unanswered, match="no answer in 1 tries"):
            ask(Z)
        gate.set()


@pytest.mark.parametrize("url", ["example.org", "ftp://example.org", "http://", "http://a:port", "file:///etc/passwd"])
def test_refuses_an_address_that_is_none(url):
    with pytest.raises(ValueError, match="url="):
        Provider(url, SPEC)


def test_refuses_certificates_that_are_none(tmp_path):
    (tmp_path / "ca").write_text("none")
    for path in (tmp_path / "ca", tmp_path / "absent"):
        with pytest.raises(ValueError, match=f"ca_file={path}: holds no certificates"):
            Provider("https://127.0.0.1:9", SPEC, ca_file=str(path))


def test_a_token_is_sent_to_a_service_that_asks_for_it():
    token = "correct-horse-battery"
    with loopback(application([Model(SPEC, network)], Limits(), token)) as url:
        with contextlib.closing(Provider(url, SPEC, token=token)) as ask:
            np.testing.assert_allclose(ask(Z), network(Z), rtol=1e-6)
        with contextlib.closing(Provider(url, SPEC)) as ask, pytest.raises(Unanswered, match=r"refused .401: .*token"):
            ask(Z)
