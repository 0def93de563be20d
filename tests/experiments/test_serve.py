"""Serving and asking from the command line: answers of the exported pair, and every mistake in one line with exit code 2."""

import contextlib
import os
import pathlib
import re
import subprocess
import sys

import httpx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ani_jax.data import catalog
from ani_jax.deploy import artefact, export
from ani_jax.types import Release

ROOT = pathlib.Path(__file__).parents[2]
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def halve(variables, x, key):
    return x[:, ::2, ::2] * variables


def linear(weights, z):
    return z.reshape(z.shape[0], -1) @ weights


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A pair whose client sends every other pixel."""
    folder = tmp_path_factory.mktemp("exported")
    weights = jax.random.normal(jax.random.key(0), (48, 10))
    card = artefact.Card("none", "digits", CLASSES, (8, 8, 3), (4, 4, 3), (4, 4, 3), "float32", low=0.0, high=1.0)
    export.write(folder, Release(jnp.float32(1), halve), jax.tree_util.Partial(linear, weights), card)
    return folder


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}


def call(module, *arguments):
    command = [sys.executable, "-m", f"experiments.{module}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)


@contextlib.contextmanager
def serving(*arguments):
    """The address of a command that serves, and the process."""
    command = [sys.executable, "-m", "experiments.serve", "--port=0", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        line = process.stdout.readline()
        assert line.startswith("serving "), process.stderr.read()
        yield line.split()[-1], process
    finally:
        process.terminate()
        _, told = process.communicate(timeout=20)
    assert told == ""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return f"--cache_dir={tmp_path_factory.mktemp('cache')}"


TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def service(exported, cache, tmp_path_factory):
    """The flags of a query to a service with a token, and that token's."""
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(f"{TOKEN}\n")
    token = f"--token_file={path}"
    with serving(f"--artefact={exported}", "--rows=8", token, cache) as (url, process):
        yield ("query", f"--artefact={exported}", f"--url={url}", cache), token
    assert process.returncode == -15


def test_images_of_its_data_set_are_answered_as_in_one_process(exported, service):
    asked, token = service
    found = call(*asked, token, "--queries=40", "--clients=4")
    assert (found.returncode, found.stderr) == (0, "")
    pair, test = artefact.load(exported), catalog.load("digits", 0, 8).test
    right = np.asarray(pair.server(pair.send(test.image[:40]))).argmax(1) == np.asarray(test.label[:40])
    lines = found.stdout.splitlines()
    assert lines[0] == f"accuracy {right.mean():.1%} over 40 queries, none failed"
    assert re.fullmatch(r"[\d,]+ queries/s from 4 at a time", lines[1])
    assert re.fullmatch(r"device p50/p95 [\d.]+/[\d.]+ ms, provider p50/p95 [\d.]+/[\d.]+ ms", lines[2])
    assert lines[3] == "192 bytes of z a query, of 192 of the raw image"


def test_what_is_served_is_described(service):
    (_, _, url, _), _ = service
    document = httpx.get(
        f"{url.removeprefix('--url=')}/openapi.json", headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False
    ).json()
    schema = document["paths"]["/v1/infer"]["post"]["requestBody"]["content"]["application/msgpack"]["schema"]
    assert schema["properties"]["shape"]["prefixItems"][1:] == [{"const": 4}, {"const": 4}, {"const": 3}]


def test_refuses_without_the_token(service):
    asked, _ = service
    refused = call(*asked, "--queries=1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert re.fullmatch(r"ani_jax: http://127.0.0.1:\d+: refused \(401: .*\)\n", refused.stderr)


@pytest.mark.slow
def test_pictures_are_answered_by_name(exported, service, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for picture, path in zip(pictures, paths, strict=True):
        Image.fromarray(picture).save(path)
    asked, token = service
    found = call(*asked, token, f"--image={','.join(map(str, paths))}")
    pair = artefact.load(exported)
    logits = np.asarray(pair.server(pair.send(pictures.astype(np.float32) / 255)))
    for line, path, row in zip(found.stdout.splitlines(), paths, logits):
        assert line.startswith(f"{path}: {CLASSES[row.argmax()]} (")


FEW = [
    (["serve"], "flag --artefact=: name an exported folder"),
    (["query", "--artefact={exported}", "--url=nowhere"], "flag --url=nowhere: must begin with http:// or https://"),
]
MORE = [
    (["serve", "--artefact=/absent"], "flag --artefact=/absent: holds no exported client"),
    (["serve", "--artefact={exported}", "--wait=-1"], "flag --wait=-1.0: must be at least 0"),
    (["serve", "--artefact={exported}", "--rows=0"], "flag --rows=0: must be from 1 to 1024"),
    (["serve", "--artefact={exported}", "--port=70000"], "flag --port=70000: must be from 0 to 65535"),
    (["serve", "--artefact={exported}", "--token_file=/absent"], "flag --token_file=/absent: cannot be read"),
    (["serve", "--artefact={exported}", "--token_file={short}"], "must hold a token of at least 16 ASCII characters"),
    (["serve", "--artefact={exported}", "--tls_cert={short}"], "is no certificate with its key"),
    (["serve", "--artefact={exported}", "--demo"], "flag --demo=True: "),
    (["query", "--url=http://127.0.0.1:9"], "flag --artefact=: name an exported folder"),
    (["query", "--artefact={exported}"], "flag --url=: name the address of a service"),
    (["query", "--artefact={exported}", "--url=http://127.0.0.1:9", "--image={short}"], "is no picture"),
    (["query", "--artefact={exported}", "--url=http://127.0.0.1:9", "--tries=0"], "flag --tries=0: must be 1 or more"),
    (["query", "--artefact={exported}", "--url=http://127.0.0.1:9", "--tries=1"], "127.0.0.1:9: no answer in 1 tries"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), [*FEW, *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE)]
)
def test_mistakes_cost_one_line_and_exit_code_2(exported, cache, tmp_path, arguments, message):
    short = tmp_path / "short"
    short.write_text("abc")
    module, *rest = (argument.format(exported=exported, short=short) for argument in arguments)
    result = call(module, *rest, cache)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
