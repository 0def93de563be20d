"""The service on loopback: right answers together and alone, every refusal in one line of JSON, and nothing takes it down."""

import concurrent.futures
import contextlib
import http.client
import json
import logging
import re
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse

import httpx
import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ani_jax.deploy import service, wire
from ani_jax.deploy.service import Limits, Model, Rate, application
from tests.deploy.conftest import SPEC, features, held, loopback, network

HEADERS = {"content-type": wire.MEDIA}
TOKEN = "correct-horse-battery"
GOOD = wire.encode("pair", features(1))


def post(url, body=GOOD, headers=HEADERS, **more):
    return httpx.post(url + wire.PATH, content=body, headers=headers, trust_env=False, **more)


def get(url, path, **more):
    return httpx.get(url + path, trust_env=False, **more)


def reason(response):
    """Of a refusal, which is JSON and holds nothing else."""
    found = response.json()
    assert list(found) == ["error"], found
    assert "\n" not in found["error"]
    return found["error"]


def test_an_answer_is_what_the_network_says(url):
    z = features(5)
    response = post(url, wire.encode("pair", z))
    name, logits = wire.decode(response.content)
    assert (response.status_code, response.headers["content-type"], name) == (200, wire.MEDIA, "pair")
    np.testing.assert_allclose(logits, network(z), rtol=1e-6)


def test_many_at_once_get_their_own_answers(url):
    z = features(200)
    with httpx.Client(trust_env=False) as client, concurrent.futures.ThreadPoolExecutor(16) as pool:

        def ask(one):
            return wire.decode(
                client.post(url + wire.PATH, content=wire.encode("pair", one[None]), headers=HEADERS).content
            )[1]

        found = np.concatenate(list(pool.map(ask, z)))
    np.testing.assert_allclose(found, network(z), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "headers", "status", "told"),
    [
        (b"", HEADERS, 400, "the body is no msgpack map"),
        (GOOD, {}, 415, "the content type must be application/msgpack"),
        (GOOD, {"content-type": "application/x-python-pickle"}, 415, "the content type"),
        (wire.encode("another", features(1)), HEADERS, 409, "the artefact is not the one that is served here"),
        (wire.encode("pair", features(9)), HEADERS, 400, "shape=(9, 4, 3): must have from 1 to 8 rows"),
        (wire.encode("pair", features(1).astype(np.float16)), HEADERS, 400, "dtype=float16: must be float32"),
        (wire.encode("pair", features(1)[:, :3]), HEADERS, 400, "shape=(1, 3, 3): must be (rows, 4, 3)"),
        (wire.encode("pair", features(1) * np.nan), HEADERS, 400, "z: holds a number that is not finite"),
        (wire.encode("pair", features(1) + 9), HEADERS, 400, "z="),
        (bytes(SPEC.largest + 1), HEADERS, 413, f"the body has more than {SPEC.largest} bytes"),
    ],
    ids=["empty", "untyped", "pickle", "artefact", "rows", "dtype", "shape", "nan", "range", "long"],
)
def test_refuses_with_a_reason(url, body, headers, status, told):
    response = post(url, body, headers)
    assert (response.status_code, reason(response)[: len(told)]) == (status, told)


def test_refuses_a_body_that_does_not_say_how_long_it_is(url):
    response = post(url, (bytes(1000) for _ in range(20)))
    assert (response.status_code, reason(response)) == (413, f"the body has more than {SPEC.largest} bytes")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", wire.PATH, 405), ("POST", "/healthz", 405), ("GET", "/x", 404)]
)
def test_refuses_other_paths_and_methods(url, method, path, status):
    response = httpx.request(method, url + path, trust_env=False)
    assert response.status_code == status
    assert reason(response)


def test_refuses_a_head_that_is_no_http(url):
    with socket.create_connection((urllib.parse.urlsplit(url).hostname, urllib.parse.urlsplit(url).port)) as raw:
        raw.sendall(b"\x16\x03\x01 no http at all\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")


def test_it_says_that_it_works_and_what_it_does(url):
    before = counted(url)
    post(url)
    post(url, b"")
    after = counted(url)
    assert get(url, "/healthz").json() == {"status": "ok"}
    assert after['requests_total{status="200"}'] - before.get('requests_total{status="200"}', 0) >= 1
    assert after['requests_total{status="400"}'] - before.get('requests_total{status="400"}', 0) == 1
    assert after["batch_rows_sum"] - before["batch_rows_sum"] == 1
    assert after["waiting_rows"] == 0


def counted(url):
    return {
        name.removeprefix("ani_jax_"): float(value)
        for name, value in re.findall(r"^(\S+) (\S+)$", get(url, "/metrics").text, re.M)
    }


def test_its_description_says_what_is_served(url):
    found = get(url, "/openapi.json").json()
    schema = found["paths"][wire.PATH]["post"]["requestBody"]["content"][wire.MEDIA]["schema"]
    assert schema["properties"]["dtype"] == {"const": "float32"}
    assert schema["properties"]["artefact"] == {"const": "pair"}
    assert "48 bytes a row of float32, little-endian, from -2 to 2" in schema["properties"]["data"]["description"]
    assert get(url, "/healthz").json() == {"status": "ok"}


def test_two_networks_are_told_apart_by_the_name_in_a_message():
    other = wire.Spec("other", (2,), "uint8", low=0, high=3)
    with loopback(application([Model(SPEC, network), Model(other, lambda z: z.astype(np.float32))])) as url:
        z = np.array([[1, 3]], np.uint8)
        np.testing.assert_array_equal(wire.decode(post(url, wire.encode("other", z)).content)[1], z)
        np.testing.assert_allclose(wire.decode(post(url).content)[1], network(features(1)), rtol=1e-6)
        assert reason(post(url, wire.encode("other", z + 1))) == "z=4: must be from 0 to 3"


def test_refuses_without_the_token():
    with loopback(application([Model(SPEC, network)], token=TOKEN)) as url:
        assert post(url, headers={**HEADERS, "authorization": f"Bearer {TOKEN}"}).status_code == 200
        for given_ in (
            {},
            {"authorization": TOKEN},
            {"authorization": "Bearer"},
            {"authorization": f"bearer {TOKEN}x"},
        ):
            response = post(url, headers={**HEADERS, **given_})
            assert (response.status_code, reason(response)) == (401, "the bearer token is missing or wrong")
            assert response.headers["www-authenticate"] == "Bearer"
        assert get(url, "/metrics").status_code == get(url, "/openapi.json").status_code == 401
        assert get(url, "/healthz").status_code == 200


def test_refuses_whoever_asks_too_often():
    with loopback(application([Model(SPEC, network)], Limits(rate=2))) as url, httpx.Client(trust_env=False) as client:
        found = [client.post(url + wire.PATH, content=GOOD, headers=HEADERS) for _ in range(20)]
        assert [one.status_code for one in found[:3]] == [200, 200, 429]
        assert reason(found[2]) == "more than 2 requests a second"
        assert found[2].headers["retry-after"] == "1"
        assert get(url, "/healthz").status_code == 200
        time.sleep(0.6)
        assert post(url).status_code == 200


def test_a_rate_is_of_each_address_and_forgets_who_is_silent():
    rate = Rate(1.0)
    assert rate.wait("a", 0.0) == 0
    assert rate.wait("a", 0.25) == 0.75
    assert rate.wait("b", 0.25) == 0
    for number in range(2 * service.ADDRESSES):
        rate.wait(str(number), 1.0)
    assert len(rate.buckets) == service.ADDRESSES
    assert Rate(0.0).wait("a", 0.0) == 0


def test_refuses_a_body_that_never_ends_and_an_answer_that_never_comes():
    gate = threading.Event()
    with loopback(application([Model(SPEC, held(gate))], Limits(timeout=0.2))) as url:
        address = urllib.parse.urlsplit(url)
        with socket.create_connection((address.hostname, address.port)) as raw:
            head = (
                f"POST {wire.PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: {wire.MEDIA}\r\ncontent-length: 40\r\n\r\nabc"
            )
            raw.sendall(head.encode())
            told = http.client.HTTPResponse(raw)
            told.begin()
            assert (told.status, json.loads(told.read())) == (408, {"error": "the body was not there within 0.2 s"})
        response = post(url)
        assert (response.status_code, reason(response)) == (504, "no answer within 0.2 s")
        gate.set()
        assert post(url).status_code == 200


def test_refuses_more_than_may_wait():
    gate = threading.Event()
    with (
        loopback(application([Model(SPEC, held(gate))], Limits(waiting=2, wait=0))) as url,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        asked = [pool.submit(post, url, GOOD, HEADERS, timeout=20) for _ in range(8)]
        while not any(one.done() for one in asked):
            time.sleep(0.01)
        gate.set()
        found = [one.result() for one in asked]
    busy = [one for one in found if one.status_code == 503]
    assert {one.status_code for one in found} == {200, 503}
    assert reason(busy[0]) == "2 rows are waiting; try again later"
    assert busy[0].headers["retry-after"] == "1"


def test_refuses_what_its_network_cannot_take():
    """Numbers that are finite, of which none was declared too large, and whose logits are none."""
    spec = wire.Spec("pair", (1,), "float32")
    with loopback(application([Model(spec, lambda z: np.where(z > 1e30, np.inf, z))])) as url:
        response = post(url, wire.encode("pair", np.full((1, 1), 1e38, np.float32)))
        assert (response.status_code, reason(response).split(";")[0]) == (400, "z: its logits are not finite")


def test_refuses_to_tell_a_stranger_why_the_network_failed(caplog):
    def broken(z):
        if z.any():
            raise RuntimeError("a secret of ours")
        return network(z)

    with loopback(application([Model(SPEC, broken)])) as url, caplog.at_level(logging.ERROR):
        response = post(url)
        assert (response.status_code, reason(response)) == (500, "the provider's network failed")
        assert get(url, "/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize("server", [lambda z: z[0], lambda z: z.reshape(len(z), -1)[:1], lambda z: z])
def test_refuses_to_serve_what_is_no_classifier(server):
    with pytest.raises(ValueError, match=r"server=pair: answers \d rows with shape .*; must be \(rows, classes\)"):
        application([Model(SPEC, server)])


@pytest.mark.parametrize(
    ("name", "value"),
    [("wait", -1.0), ("timeout", 0.0), ("rate", float("nan")), ("waiting", 0), ("wait", float("inf"))],
)
def test_refuses_limits_that_are_none(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: must be at least"):
        Limits(**{name: value})


def test_refuses_an_address_that_is_taken_and_files_that_are_no_certificates(tmp_path):
    app = application([Model(SPEC, network)])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port={port}: cannot listen on 127.0.0.1"):
            service.listening(app, port=port)
    with pytest.raises(ValueError, match="port=70000: must be from 0 to 65535"):
        service.listening(app, port=70000)
    (tmp_path / "cert").write_text("no certificate")
    for path in (tmp_path / "cert", tmp_path / "absent"):
        with pytest.raises(ValueError, match=f"tls_cert={path}: with tls_key=None is no certificate"):
            service.listening(app, tls_cert=str(path))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    names = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names, *subject]
    subprocess.run(command, check=True, capture_output=True)
    return str(folder / "cert.pem"), str(folder / "key.pem")


def test_tls_is_spoken_to_whoever_trusts_it(certificate):
    cert, key = certificate
    with loopback(application([Model(SPEC, network)]), tls_cert=cert, tls_key=key) as url:
        assert post(url, verify=ssl.create_default_context(cafile=cert)).status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            post(url)


def test_what_was_begun_is_answered_before_it_ends():
    begun = threading.Event()

    def slow(z):
        if z.any():
            begun.set()
            time.sleep(0.5)
        return network(z)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with loopback(application([Model(SPEC, slow)])) as url:
            asked = pool.submit(post, url)
            begun.wait(5)
        # The service has ended here.
        assert asked.result().status_code == 200
        with pytest.raises(httpx.ConnectError):
            post(url)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=60),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=12,
)
near = st.fixed_dictionaries(
    {
        "artefact": st.just("pair") | anything,
        "dtype": st.sampled_from([*wire.DTYPES, "float64", "O", ""]) | anything,
        "shape": st.just([1, 4, 3]) | st.lists(st.integers(-2, 2**40), max_size=9) | anything,
        "data": st.binary(min_size=48, max_size=48) | anything,
    }
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(body=near.map(msgpack.packb) | anything.map(msgpack.packb) | st.binary(max_size=300))
def test_whatever_comes_is_answered_or_refused(url, body):
    """Never anything else than logits of the rows that were sent, or a line why not."""
    with contextlib.closing(http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=10)) as connection:
        connection.request("POST", wire.PATH, body, HEADERS)
        response = connection.getresponse()
        told = response.read()
    if response.status == 200:
        _, z = wire.decode(body)
        np.testing.assert_allclose(wire.decode(told)[1], network(z), rtol=1e-5, atol=1e-6)
    else:
        assert response.status in (400, 409), told
        assert list(json.loads(told)) == ["error"]
