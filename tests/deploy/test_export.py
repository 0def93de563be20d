"""Writing a folder: what is refused, what is drawn where a client cannot be given its noise, and what lies in the files."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from ani_jax.attacks.base import Context, prepare
from ani_jax.attacks.decoder import Residual, Ridge
from ani_jax.data import digits
from ani_jax.defenses import registry
from ani_jax.defenses.base import freeze
from ani_jax.deploy import artefact, export
from ani_jax.targets.image import Image
from ani_jax.training.state import init
from ani_jax.types import Knowledge, Release
from tests.deploy.exporting import SHAPE, card, folder, images, made


def answer(variables, z):
    return z.reshape(z.shape[0], -1).sum(1, keepdims=True) * variables["w"]


PREDICT = jax.tree_util.Partial(answer, {"w": jnp.ones((1, 10))})


def test_weights_are_named_by_where_they_are_and_lie_with_their_party():
    release, predict, _ = made("memoised")
    for party, tree in (("client", release.variables), ("server", predict)):
        found = load_file(folder("memoised") / artefact.WEIGHTS.format(party))
        assert {name.split("/")[0] for name in found} == {party}
        assert sum(value.size for value in found.values()) == sum(leaf.size for leaf in jax.tree.leaves(tree))
    np.testing.assert_array_equal(
        found["server/params/classifier/kernel"], predict.args[0]["params"]["classifier"]["kernel"]
    )


@pytest.mark.parametrize("kind", [Ridge, Residual])
def test_an_attacker_is_exported_as_it_guesses(tmp_path, kind):
    release, predict, grid = made("memoised")
    data = digits.load(image_size=SHAPE[0])
    asked = prepare(jax.random.key(0), Knowledge(release), data.auxiliary, data.validation, count=300)
    settings = {} if kind is Ridge else {"steps": 4, "width": 4, "batch_size": 8}
    bare = Context(jax.random.key(1), asked, lambda other: other.fit(bare))
    attacker = kind(Image(), **settings).fit(bare).attacker
    export.write(tmp_path, release, predict, card(release, grid), attacker=attacker)
    there = artefact.load(tmp_path, tmp_path / "secret")
    z = there.send(np.asarray(images(5)))
    told = attacker(jax.random.key(2), jnp.asarray(there.card.unpack(z))[None])
    np.testing.assert_allclose(there.attacker(z), told, atol=1e-5)
    assert np.std(told) > 1e-3


def test_programs_are_for_every_platform_and_keep_a_gradient():
    for name in ("client", "server", "mean", "stddev", "log_prob"):
        exported = jax.export.deserialize(bytearray((folder("fresh") / f"{name}.jax").read_bytes()))
        assert exported.platforms == export.PLATFORMS
        assert exported.has_vjp()
        # Nor does it say on whose machine, and in which line, it was written.
        assert b".py" not in (folder("fresh") / f"{name}.jax").read_bytes()


def test_writing_twice_writes_the_same(tmp_path):
    release, predict, grid = made("memoised")
    again = export.write(tmp_path, release, predict, card(release, grid), onnx=True)
    assert again.hashes == artefact.load(folder("memoised")).card.hashes


def test_a_client_that_draws_its_noise_by_itself_gets_a_key_of_jaxs(tmp_path):
    noisy = Release({}, lambda variables, x, key: x.mean(3) + jax.random.normal(key, x.shape[:3]), True)
    written = export.write(tmp_path, noisy, PREDICT, card(noisy, (None, None, 0)))
    there = artefact.load(tmp_path)
    assert (written.key_words, written.noise) == (2, "fresh")
    x = jnp.ones((3, *SHAPE))
    words = there.words()
    np.testing.assert_allclose(there.client(x, words), noisy(x, jax.random.wrap_key_data(words)), atol=1e-6)
    assert np.std(there.send(np.asarray(x))) > 0.5


def test_a_graph_without_its_noise_as_an_input_is_refused(tmp_path):
    noisy = Release({}, lambda variables, x, key: x + jax.random.normal(key, x.shape), True)
    with pytest.raises(ValueError, match=r"^onnx=True: this client draws its noise by itself"):
        export.write(tmp_path, noisy, PREDICT, card(noisy, (None, None, 0)), onnx=True)


def test_equal_images_have_different_noise_in_one_query_unless_it_is_memoised(tmp_path):
    for kind in ("fresh", "memoised"):
        there = artefact.load(folder(kind), tmp_path / "secret")
        first, second = there.send(np.full((2, *SHAPE), 0.5, np.float32))
        assert (first == second).all() == (kind == "memoised")


def test_noise_is_of_every_word_of_the_key():
    release, _, _ = made("fresh")
    x, words = jnp.full((1, *SHAPE), 0.5), jnp.arange(8, dtype=jnp.uint32)
    base = export.keyed(release, x, words)
    for place in range(8):
        other = words.at[place].add(1 << 31)
        assert (export.keyed(release, x, other) == base).mean() < 0.1


def test_a_seal_is_of_all_that_is_there(tmp_path):
    (tmp_path / "evidence.json").write_text("{}")
    release, _, grid = made("none")
    sealed = export.seal(tmp_path, card(release, grid))
    assert list(sealed.hashes) == ["evidence.json"]
    assert set(sealed.made_with) == set(export.VERSIONS)
    assert export.seal(tmp_path, dataclasses.replace(sealed, hashes={})) == sealed


FIRST = ("ani", "funnel", "partition")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FIRST else pytest.mark.slow) for name in registry.DEFENSES]
)
def test_every_defence_is_a_program_of_any_batch(name):
    attributes = (("ink", 4),)
    small = {"width": 2} if name != "label_only" else {}
    defense = registry.build(name, 3, (16, 16, 3), attributes=attributes, **small)
    state = init(defense, jax.random.key(0))
    release, predict = freeze(defense, state.params, state.statistics)
    (batch,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((batch, 16, 16, 3), jnp.float32)
    words = jax.ShapeDtypeStruct((export.key_words(release),), jnp.uint32)
    sent = jax.export.export(jax.jit(lambda x, words: export.keyed(release, x, words)))(x, words)
    assert sent.out_avals[0].shape[1:] == export.feature_shape(release, (16, 16, 3))
    if release.log_prob is not None:
        jax.export.export(jax.jit(lambda z, x: release.log_prob(release.variables, z, x)))(sent.out_avals[0], x)
    jax.export.export(jax.jit(lambda z: predict(z)))(sent.out_avals[0])
