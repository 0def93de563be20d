"""Messages: there and back for every dtype, and one line for every one that is none."""

import math
import resource

import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ani_jax.deploy import wire
from ani_jax.deploy.wire import Refused, Spec

SPEC = Spec("pair", (2, 3), "float32", low=-1.0, high=1.0, rows=4)
GOOD = {"artefact": "pair", "dtype": "float32", "shape": [1, 2, 3], "data": bytes(24)}


@pytest.mark.parametrize("dtype", wire.DTYPES)
def test_there_and_back(dtype):
    z = np.random.default_rng(0).uniform(0, 100, (3, 5, 2)).astype(wire.DTYPES[dtype])
    name, found = wire.decode(wire.encode("pair", z))
    assert (name, found.dtype, found.shape) == ("pair", z.dtype, z.shape)
    np.testing.assert_array_equal(found.view(np.uint8), z.view(np.uint8))


def test_a_message_is_what_its_documentation_says():
    """Known bytes, so that somebody else's client can be written from the first lines of the file alone."""
    z = np.array([[1.0, -2.0]], ">f4")
    assert msgpack.unpackb(wire.encode("a", z)) == {
        "artefact": "a",
        "dtype": "float32",
        "shape": [1, 2],
        "data": b"\x00\x00\x80\x3f\x00\x00\x00\xc0",
    }


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"artefact": 3}, "artefact=3: must be a string"),
        ({"dtype": "float64"}, "dtype='float64': must be one of float32"),
        ({"dtype": ["float32"]}, "dtype=['float32']: must be one of"),
        ({"dtype": "O"}, "dtype='O': must be one of"),
        ({"shape": []}, "shape=[]: must be a list of 1 to 8 sizes"),
        ({"shape": [True, 2, 3]}, "shape=[True, 2, 3]: must be a list"),
        ({"shape": [1, -2, -3]}, "shape=[1, -2, -3]: must be a list"),
        ({"shape": [0, 2, 3], "data": b""}, "shape=[0, 2, 3]: must be a list"),
        ({"shape": [1, 2.0, 3]}, "shape=[1, 2.0, 3]: must be a list"),
        ({"shape": "123"}, "shape='123': must be a list"),
        ({"shape": [2**63, 2**63]}, "data: 24 bytes; must be"),
        ({"shape": [1] * 9}, "the body is no msgpack map"),
        ({"data": "text"}, "data='text': must be binary"),
        ({"data": bytes(23)}, "data: 23 bytes; must be 24, for float32 of shape (1, 2, 3)"),
        ({"more": 1}, "the body is no msgpack map"),
        ({"artefact": "a" * 129}, "the body is no msgpack map"),
        ({"data": msgpack.ExtType(4, b"abc")}, "the body is no msgpack map"),
        ({"data": msgpack.Timestamp(1)}, "the body is no msgpack map"),
    ],
)
def test_refuses_in_one_line(changed, reason):
    with pytest.raises(Refused) as caught:
        wire.decode(msgpack.packb({**GOOD, **changed}))
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"{}", b"\x90", msgpack.packb(GOOD) + b"\x00", msgpack.packb(GOOD)[:-1]]
)
def test_refuses_what_is_no_message(body):
    with pytest.raises(Refused, match="the body is"):
        wire.decode(body)


def test_refuses_nested_headers_without_reserving_what_they_claim():
    """A kilobyte that claims a thousand arrays of a billion within each other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused):
        wire.decode(b"\xdd\x3f\xff\xff\xff" * 1000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_refuses_to_encode_what_has_no_name():
    with pytest.raises(Refused, match="dtype=float64: must be one of float32"):
        wire.encode("pair", np.zeros((1, 2)))


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(wire.FIELDS), st.none() | st.integers(-9, 9)).map(msgpack.packb)
)
def test_anything_else_is_refused_too(body):
    with pytest.raises(Refused):
        wire.decode(body)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 60), st.integers(0, 255))
def test_one_changed_byte_is_refused_or_changes_what_was_said(at, byte):
    """Nothing between a message and an error: no warning, no other exception, no array that is not as declared."""
    message = bytearray(wire.encode("pair", np.ones((1, 2, 3), np.float32)))
    message[at] = byte
    try:
        _, z = wire.decode(bytes(message))
        SPEC.check(z)
    except Refused:
        return
    assert z.shape == (1, 2, 3)
    assert np.isfinite(z).all()


def test_a_spec_accepts_what_it_declares():
    for rows in (1, 4):
        SPEC.check(np.full((rows, 2, 3), 1.0, np.float32))
    # The nearest float32 of a bound may lie beyond it, and a client that clips sends just that.
    edge = Spec("pair", (1,), "float32", low=-0.1, high=0.1)
    edge.check(np.full((1, 1), 0.1, np.float32))
    assert float(np.float32(0.1)) > 0.1
    Spec("pair", (1,), "bfloat16").check(np.full((1, 1), 3e38, ml_dtypes.bfloat16))


@pytest.mark.parametrize(
    ("z", "reason"),
    [
        (np.zeros((1, 2, 3), np.float16), "dtype=float16: must be float32"),
        (np.zeros((1, 3, 2), np.float32), "shape=(1, 3, 2): must be (rows, 2, 3)"),
        (np.zeros((6,), np.float32), "shape=(6,): must be (rows, 2, 3)"),
        (np.zeros((5, 2, 3), np.float32), "shape=(5, 2, 3): must have from 1 to 4 rows"),
        (np.full((1, 2, 3), np.nan, np.float32), "z: holds a number that is not finite"),
        (np.full((1, 2, 3), -np.inf, np.float32), "z: holds a number that is not finite"),
        (np.full((1, 2, 3), 1.5, np.float32), "z=1.5: must be from -1 to 1"),
        (np.full((1, 2, 3), np.nextafter(np.float32(-1), np.float32(-2))), "z=-1.00000012: must be from -1 to 1"),
    ],
)
def test_a_spec_refuses_everything_else(z, reason):
    with pytest.raises(Refused) as caught:
        SPEC.check(z)
    assert str(caught.value) == reason


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_spec_refuses_small_floats_that_are_none(dtype, value):
    z = np.zeros((1, 4), wire.DTYPES[dtype])
    z[0, 3] = value
    with pytest.raises(Refused, match="not finite"):
        Spec("pair", (4,), dtype).check(z)


def test_a_spec_refuses_codes_beyond_its_grid():
    spec = Spec("pair", (2,), "uint16", low=0, high=999)
    spec.check(np.array([[0, 999]], np.uint16))
    with pytest.raises(Refused, match="z=1000: must be from 0 to 999"):
        spec.check(np.array([[0, 1000]], np.uint16))


def test_the_largest_message_is_one_of_all_rows():
    message = wire.encode(SPEC.artefact, np.zeros((SPEC.rows, *SPEC.shape), np.float32))
    assert 0 <= SPEC.largest - len(message) < wire.HEADER
    assert SPEC.bytes == math.prod(SPEC.shape) * 4
