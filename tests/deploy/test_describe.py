"""The description: what OpenAPI says, of whom, and that messages which it calls good are good."""

import jsonschema
import msgpack
import numpy as np
import pytest

from ani_jax.deploy import wire
from ani_jax.deploy.describe import describe
from tests.deploy.conftest import SPEC, features


def request(document):
    return document["paths"][wire.PATH]["post"]["requestBody"]["content"][wire.MEDIA]["schema"]


def test_a_good_message_is_as_described_and_a_bad_one_is_not():
    check = jsonschema.Draft202012Validator(request(describe([SPEC]))).is_valid
    good = msgpack.unpackb(wire.encode("pair", features(3)))
    # JSON has no bytes: OpenAPI calls them a string.
    good["data"] = ""
    assert check(good)
    for name, value in {"artefact": "x", "dtype": "int8", "shape": [1, 3, 4], "data": 1}.items():
        assert not check({**good, name: value})
    assert not check({**good, "shape": [SPEC.rows + 1, *SPEC.shape]})
    assert not check({**good, "more": 1})


def test_every_artefact_has_its_own_schema():
    other = wire.Spec("other", (2,), "uint16", low=0, high=9)
    check = jsonschema.Draft202012Validator(request(describe([SPEC, other]))).is_valid
    messages = [
        msgpack.unpackb(wire.encode(name, z)) for name, z in (("pair", features(1)), ("other", np.ones((1, 2), "<u2")))
    ]
    assert all(check({**message, "data": ""}) for message in messages)
    assert not check({**messages[0], "data": "", "artefact": "other"})


@pytest.mark.parametrize("token", [False, True])
def test_a_token_is_described_where_there_is_one(token):
    found = describe([SPEC], token)
    assert ("security" in found) == ("401" in found["paths"][wire.PATH]["post"]["responses"]) == token
    assert "401" not in found["paths"]["/healthz"]["get"]["responses"]
