"""What an exported folder promises: the checkpoint's outputs, and noise that every device draws by itself."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ani_jax.attacks.descent import Goal
from ani_jax.deploy import artefact, export
from ani_jax.deploy.artefact import Card, Found, load, wire
from ani_jax.modules.kernels import convolution
from ani_jax.modules.pseudorandom import fresh, normal
from ani_jax.records import AttackResult, Estimate, Evidence, from_json, to_json
from ani_jax.targets.image import Image
from tests.deploy.exporting import KINDS, SHAPE, folder, images, loaded, made, rms

WORDS = jnp.arange(8, dtype=jnp.uint32)


@pytest.mark.parametrize("kind", KINDS)
def test_client_and_server_are_the_checkpoints(kind, tmp_path, monkeypatch):
    """With the same words even the noise is the same; against XLA's own convolution, at more than one batch."""
    release, predict, _ = made(kind)
    there = loaded(kind, tmp_path / "secret")
    monkeypatch.setattr(convolution, "known", lambda *arguments: None)
    for count in (1, 5):
        x = images(count)
        z = there.client(x, WORDS)
        told = export.keyed(release, x, WORDS)
        assert z.shape == (count, *there.card.feature_shape)
        np.testing.assert_allclose(z, told, atol=1e-5 * rms(told), rtol=0)
        logits = predict(told)
        np.testing.assert_allclose(there.server(z), logits, atol=1e-5 * rms(logits), rtol=0)
    for name, given in (("mean", (x,)), ("stddev", (x,)), ("log_prob", (z, x))):
        declared = getattr(release, name)
        assert (name in there.programs) == (declared is not None) == (kind != "none")
        if declared is not None:
            told = declared(release.variables, *given)
            np.testing.assert_allclose(getattr(there.release(), name)((), *given), told, atol=1e-5 * max(1, rms(told)))


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_differentiated(kind, tmp_path):
    release, _, _ = made(kind)
    there, x, key = loaded(kind, tmp_path / "secret").release(), images(3), jax.random.key(4)
    assert (there.stochastic, there.memoised) == (release.stochastic, release.memoised)
    weigh = jax.random.normal(key, there(x, key).shape)
    words = jax.random.bits(key, (export.key_words(release),), jnp.uint32)
    found = jax.grad(lambda x: (weigh * there(x, key)).sum())(x)
    told = jax.grad(lambda x: (weigh * export.keyed(release, x, words)).sum())(x)
    assert rms(told) > 1e-3
    np.testing.assert_allclose(found, told, atol=1e-4 * rms(told))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_what_it_declares_is_descended_as_the_checkpoints_is(kind, tmp_path):
    """The misfit of several releases by their density, and its gradient: an exported program cannot be mapped over them."""
    release, _, _ = made(kind)
    there, x = loaded(kind, tmp_path / "secret").release(), images(3)
    z = jnp.stack([release(x, jax.random.key(seed)) for seed in range(2)])
    goals = [Goal(one, jnp.ones(z.shape[2:]), likelihood=True) for one in (there, release)]
    found, told = (
        jax.jit(jax.value_and_grad(lambda x, goal=goal: goal.misfit(x, z, jax.random.key(1)).sum()))(0.9 * x)
        for goal in goals
    )
    np.testing.assert_allclose(found[0], told[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], told[1], atol=1e-4 * rms(told[1]))


def test_fresh_noise_has_the_checkpoints_distribution(tmp_path):
    """10,000 draws each of one image: no feature's two samples differ, and noise a quarter larger would be noticed in all."""
    release, _, _ = made("fresh")
    there = loaded("fresh", tmp_path / "secret")
    x = jnp.repeat(images(1), 10_000, axis=0)
    ours, theirs = (
        np.asarray(z).reshape(len(x), -1)
        for z in (there.client(x, there.words()), jax.jit(lambda: release(x, jax.random.key(9)))())
    )
    least = 1e-3 / ours.shape[1]
    assert min(scipy.stats.ks_2samp(ours, theirs, axis=0).pvalue) > least
    assert np.abs(np.corrcoef(ours[:, :20].T) - np.eye(20)).max() < 6 / 100
    louder = theirs.mean(0) + 1.25 * (theirs - theirs.mean(0))
    assert max(scipy.stats.ks_2samp(ours, louder, axis=0).pvalue) < least


def test_memoised_noise_has_the_checkpoints_distribution_over_devices(tmp_path):
    release, _, _ = made("memoised")
    there, x = loaded("memoised", tmp_path / "secret"), images(1)
    words = jax.random.bits(jax.random.key(7), (500, 8), jnp.uint32)
    keys = jax.random.split(jax.random.key(8), 500)
    ours = np.concatenate([np.ravel(there.client(x, one)) for one in words])
    theirs = np.ravel(jax.jit(jax.vmap(release, (None, 0)))(x, keys))
    # Features have means of their own, so all are compared at once, and each number is one draw.
    assert len(ours) >= 10_000
    assert scipy.stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_one_device_repeats_itself_only_where_the_card_says_so(tmp_path):
    x = np.asarray(images(3))
    for kind in ("fresh", "memoised"):
        here, again, other = (loaded(kind, tmp_path / kind / name) for name in ("here", "here", "other"))
        assert here.card.noise == kind
        first = here.send(x)
        same = [(first == z).mean() for z in (here.send(x), again.send(x))]
        assert min(same) == 1 if kind == "memoised" else max(same) < 0.05
        assert (first == other.send(x)).mean() < 0.2
        assert (tmp_path / kind / "here").exists() == (kind == "memoised")
    sent = loaded("none", tmp_path / "none").send(x)
    np.testing.assert_array_equal(loaded("none", tmp_path / "other").send(x), sent)


def test_two_clients_of_one_device_share_no_noise(tmp_path):
    here = loaded("memoised", tmp_path / "secret")
    hashes = {**here.card.hashes, "client.safetensors": hashlib.sha256(b"others").hexdigest()}
    other = dataclasses.replace(here, card=dataclasses.replace(here.card, hashes=hashes))
    assert not (here.words() == other.words()).any()
    np.testing.assert_array_equal(here.words(), here.words())


def keys(program):
    """Constants of several different 32-bit words in a program: what a key that was exported would be."""
    found = []

    def walk(block):
        for operation in block.operations:
            for region in operation.regions:
                for inner in region.blocks:
                    walk(inner)
            if operation.operation.name != "stablehlo.constant":
                continue
            kind = str(operation.result.type)
            value = np.array(operation.attributes["value"]) if "ui32>" in kind or "i32>" in kind else np.zeros(0)
            if value.size > 1 and len({*value.ravel().tolist()}) > 1:
                found.append(tuple(value.ravel().tolist()))

    from jax._src.interpreters import mlir
    from jax._src.lib.mlir import ir

    with mlir.make_ir_context():
        walk(ir.Module.parse(program.mlir_module()).body)
    return {*found}


@pytest.mark.parametrize("kind", KINDS)
def test_no_constant_key_lies_in_it(kind):
    """Hash and cipher have constants, which are the standards' (tests/modules/test_pseudorandom.py); nothing else has any."""
    exported = jax.export.deserialize(bytearray((folder(kind) / "client.jax").read_bytes()))
    given = {"none": 0, "fresh": 8, "memoised": 8}[kind]
    assert [str(aval) for aval in exported.in_avals if "uint32" in str(aval)] == [f"uint32[{given}]"]
    noise = {"fresh": fresh, "memoised": normal}.get(kind, lambda words, x, size: x)
    (batch,) = jax.export.symbolic_shape("b")
    specs = jax.ShapeDtypeStruct((8,), jnp.uint32), jax.ShapeDtypeStruct((batch, *SHAPE), jnp.float32)
    size = int(np.prod(load(folder(kind)).card.feature_shape))
    alone = jax.export.export(jax.jit(lambda words, x: noise(words, x, size)), platforms=export.PLATFORMS)(*specs)
    assert keys(exported) - keys(alone) == set()


def test_a_constant_key_would_be_found():
    words = np.asarray(jax.random.key_data(jax.random.key(2**40 + 7))) * np.uint32(77)
    baked = jax.jit(lambda x: x + jax.random.normal(jax.random.wrap_key_data(jnp.asarray(words)), x.shape))
    exported = jax.export.export(baked)(jax.ShapeDtypeStruct((3, 5), jnp.float32))
    assert tuple(words.tolist()) in keys(exported)


@pytest.mark.parametrize(
    ("bits", "levels", "dtype"), [(1, 2, "uint8"), (3, 8, "uint8"), (8, 256, "uint8"), (15, 20_737, "uint16")]
)
def test_codes_come_back_as_the_features_that_they_stand_for(bits, levels, dtype):
    fields = wire((3, 5), -1.5, 2.5, levels)
    own = Card("x", "digits", ("a", "b"), (4, 4, 1), **fields)
    assert (own.bits, own.z_dtype) == (bits, dtype)
    codes = np.random.default_rng(0).integers(0, levels, (7, 3, 5))
    features = (-1.5 + codes * 4.0 / (levels - 1)).astype(np.float32)
    z = own.pack(features)
    assert (z.shape, z.dtype) == ((7, *own.z_shape), np.dtype(dtype))
    assert own.bytes_sent == z[0].nbytes == (-(-15 * bits // 8) if bits < 8 else 15 * (1 + (bits > 8)))
    np.testing.assert_allclose(own.unpack(z), features, atol=1e-6)
    np.testing.assert_array_equal(own.pack(own.unpack(z)), z)


def test_a_server_takes_what_was_sent_and_what_it_stands_for(tmp_path):
    there = loaded("memoised", tmp_path / "secret")
    z = there.send(np.asarray(images(4)))
    assert (z.dtype, z.shape) == (np.uint8, (4, *there.card.z_shape))
    np.testing.assert_allclose(there.server(z), there.server(there.card.unpack(z)), rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (
            np.zeros((1, *SHAPE), np.uint8),
            r"images: uint8 of shape \(1, 8, 8, 3\); must be floats of shape \(b, 8, 8, 3\)",
        ),
        (np.zeros((1, 8, 8, 1), np.float32), r"images: float32 of shape \(1, 8, 8, 1\)"),
        (np.full((1, *SHAPE), 255.0), "images: hold something beyond 0 to 1"),
        (np.full((1, *SHAPE), np.nan), "images: hold something beyond 0 to 1"),
    ],
)
def test_what_is_no_image_is_refused(x, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        loaded("none", tmp_path / "secret").send(x)


def test_a_card_is_json_both_ways(tmp_path):
    own = dataclasses.replace(
        Card("x", "digits", ("a", "b"), (4, 4, 1), **wire((2,), -1.0, 1.0, 0)),
        evidence=(Found("ink", "attribute on 1 release", "balanced accuracy", 0.3, 0.2, 0.4),),
        cost=artefact.Cost(1, 2, 3, 4, 0.5, 0.6, 7.0, 8.0),
        gate={"ink<=0.35": "holds"},
    )
    assert from_json(Card, to_json(own)) == own
    text = (folder("fresh") / "card.json").read_text()
    assert to_json(load(folder("fresh")).card) == text
    assert set(json.loads(text)["hashes"]) == {path.name for path in folder("fresh").iterdir()} - {"card.json"}


def result(attack, queries, name, value, status="ok"):
    scores = {name: Estimate(value, 0.1, 0.9)}
    return AttackResult(attack, "image", queries, "x", scores, {}, (), Estimate(None), status=status)


def test_the_strongest_attack_is_summarised_and_a_failed_one_never_counts():
    words = Image().words
    tried = [("decoder", 1, 0.03), ("decoder", 64, 0.02), ("prior", 1, None)]
    results = [result(attack, queries, words.strength, value) for attack, queries, value in tried]
    results.append(result("likelihood", 1, words.strength, 0.001, "failed: diverged"))
    evidence = Evidence("x", "digits", 0, "preview", {}, {}, {}, tuple(results), targets=(words,))
    label = words.metric(words.strength).label
    assert Found.of(evidence) == (Found("image", "decoder on 64 releases", label, 0.02, 0.1, 0.9),)
    nothing = dataclasses.replace(evidence, attacks=results[2:])
    assert Found.of(nothing) == (Found("image", "none ran through", label, None),)


@pytest.fixture
def copy(tmp_path):
    return pathlib.Path(shutil.copytree(folder("none"), tmp_path / "copy"))


def spoil(path):
    path.write_bytes(path.read_bytes()[:-1] + b"!")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "card.json").unlink(), "holds no exported client"),
        (lambda path: (path / "card.json").write_text("{}"), "holds no exported client"),
        (lambda path: (path / "server.jax").unlink(), "server.jax cannot be read"),
        (lambda path: spoil(path / "server.safetensors"), "server.safetensors is not the file that was exported"),
        (lambda path: (path / "client.safetensors").unlink(), "client.safetensors cannot be read"),
        (lambda path: [file.unlink() for file in path.iterdir() if file.name != "card.json"], "holds a card alone"),
        (lambda path: spoil(path / "client.jax"), "client.jax is not the file that was exported"),
    ],
    ids=["none", "empty", "missing", "weights", "half", "alone", "program"],
)
def test_a_folder_that_is_not_whole_is_refused(copy, damage, reason):
    damage(copy)
    with pytest.raises(ValueError, match=f"^artefact={copy}: {reason}") as error:
        load(copy)
    assert "\n" not in str(error.value)


def test_each_party_needs_its_own_files_alone(tmp_path):
    whole, x = loaded("memoised", tmp_path / "secret"), np.asarray(images(3))
    halves = {}
    for name in ("client", "server"):
        place = shutil.copytree(folder("memoised"), tmp_path / name)
        for file in place.iterdir():
            if file.name != "card.json" and artefact.party(file.name) != name:
                file.unlink()
        halves[name] = load(place, tmp_path / "secret")
    z = halves["client"].send(x)
    np.testing.assert_array_equal(z, whole.send(x))
    np.testing.assert_array_equal(halves["server"].server(z), whole.server(z))
    with pytest.raises(ValueError, match="artefact: this folder holds no server; copy its files"):
        halves["client"].server(z)
    with pytest.raises(ValueError, match="artefact: this folder holds no client"):
        halves["server"].send(x)


def test_a_folder_of_another_version_or_without_a_client_is_refused(copy):
    text = json.loads((copy / "card.json").read_text())
    (copy / "card.json").write_text(json.dumps({**text, "hashes": {}}))
    with pytest.raises(ValueError, match="its card names no client"):
        load(copy)
    (copy / "card.json").write_text(json.dumps({**text, "version": 0}))
    with pytest.raises(ValueError, match="is of version 0; this code reads 1"):
        load(copy)


def test_what_the_extra_brings_is_named_where_it_is_refused(copy, monkeypatch):
    monkeypatch.setattr(artefact.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package flatbuffers; pip install 'ani-jax\[export\]'"):
        load(copy)


def test_a_secret_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "new" / "secret"
    first = artefact.device_secret(path)
    assert len(first) == artefact.SECRET_BYTES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert artefact.device_secret(path) == first
    assert artefact.device_secret(tmp_path / "other") != first
    assert [file.name for file in path.parent.iterdir()] == ["secret"]


def test_a_secret_that_others_read_or_that_is_none_is_refused(tmp_path):
    path = tmp_path / "secret"
    artefact.device_secret(path)
    path.chmod(0o644)
    with pytest.raises(ValueError, match=rf"secret={path}: others may read it; chmod 600"):
        artefact.device_secret(path)
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="holds 5 bytes; must be 32"):
        artefact.device_secret(path)
    with pytest.raises(ValueError, match=f"secret={path / 'below'}: cannot be kept there"):
        artefact.device_secret(path / "below")


ALONE = """
import hashlib, sys
import numpy as np
from ani_jax.deploy.artefact import load
there = load(sys.argv[1], sys.argv[2])
x = np.random.default_rng(0).random((2, *there.card.image_shape), np.float32)
sent = [hashlib.sha256(there.send(x).tobytes()).hexdigest() for _ in range(2)]
heavy = ("flax", "optax", "orbax", "ani_jax.defenses", "ani_jax.training", "ani_jax.modules", "ani_jax.data", "sklearn")
print(*sent, *there.server(there.send(x)).shape, *(name for name in heavy if name in sys.modules))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fresh", "memoised"])
def test_two_processes_send_different_noise_without_the_code_that_trained(kind, tmp_path):
    said = []
    for name in ("here", "other", "here"):
        command = [sys.executable, "-c", ALONE, str(folder(kind)), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "XLA_FLAGS": ""})
        first, second, *rest = done.stdout.split()
        assert rest == ["2", "10"]
        assert (first == second) == (kind == "memoised")
        said.append(first)
    assert said[0] != said[1]
    assert (said[0] == said[2]) == (kind == "memoised")
